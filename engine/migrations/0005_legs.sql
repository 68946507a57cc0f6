-- A route is one or more swaps of one transaction: legs, as JSON, in place of a single pool.
ALTER TABLE orders ADD COLUMN legs jsonb;
ALTER TABLE attempts ADD COLUMN legs jsonb;

CREATE FUNCTION one_leg(
    venue text, pool text, mint_in text, mint_out text,
    amount_in numeric, quoted_amount_out numeric, min_amount_out numeric
) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_array(jsonb_build_object(
        'venue', venue, 'pool', pool,
        'kind', CASE venue WHEN 'raydium' THEN 'raydium_cpmm' WHEN 'meteora' THEN 'meteora_dlmm'
                           ELSE '' END,
        'mint_in', mint_in, 'mint_out', mint_out, 'amount_in', amount_in,
        'quoted_amount_out', quoted_amount_out, 'min_amount_out', min_amount_out))
$$;

UPDATE orders
   SET legs = one_leg(venue, pool, token_in, token_out, amount_in, quoted_amount_out,
                      min_amount_out)
 WHERE venue IS NOT NULL;
UPDATE attempts a
   SET legs = one_leg(a.venue, a.pool, o.token_in, o.token_out, o.amount_in,
                      coalesce(o.quoted_amount_out, a.min_amount_out), a.min_amount_out)
  FROM orders o WHERE o.order_id = a.order_id;
-- Events tell of attempts and decisions by the same facts.
UPDATE order_events e
   SET detail = jsonb_set(e.detail #- '{attempt,venue}' #- '{attempt,pool}',
                          '{attempt,legs}', a.legs)
  FROM attempts a
 WHERE e.detail ? 'attempt' AND a.order_id = e.order_id
   AND a.number = (e.detail -> 'attempt' ->> 'number')::integer;
UPDATE order_events e
   SET detail = jsonb_set(e.detail, '{route,route}', (
       SELECT jsonb_build_object(
                  'legs', one_leg(q ->> 'venue', q ->> 'pool', o.token_in, o.token_out,
                                  o.amount_in, (q ->> 'amount_out')::numeric,
                                  (e.detail -> 'route' ->> 'min_amount_out')::numeric),
                  'quoted_amount_out', q -> 'amount_out')
         FROM jsonb_array_elements(e.detail -> 'route' -> 'quotes') AS q
        WHERE q ->> 'venue' = e.detail -> 'route' ->> 'venue' LIMIT 1))
  FROM orders o
 WHERE o.order_id = e.order_id AND e.type = 'route_chosen';
DROP FUNCTION one_leg;

ALTER TABLE attempts ALTER COLUMN legs SET NOT NULL, DROP COLUMN pool;
ALTER TABLE orders DROP CONSTRAINT route_is_whole, DROP COLUMN pool,
    ADD CONSTRAINT route_is_whole CHECK (
        (venue IS NULL) = (legs IS NULL) AND (venue IS NULL) = (quoted_amount_out IS NULL));

ALTER TYPE order_move DROP ATTRIBUTE pool, ADD ATTRIBUTE legs jsonb;
ALTER TYPE signed_attempt DROP ATTRIBUTE pool, DROP ATTRIBUTE evidence,
    ADD ATTRIBUTE evidence jsonb, ADD ATTRIBUTE legs jsonb;
