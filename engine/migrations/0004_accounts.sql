-- Who may call. A key is known by a hash of its secret alone, which is long and random.
CREATE TABLE api_keys (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id      text NOT NULL UNIQUE CHECK (key_id ~ '^[0-9a-f]{16}$'),
    account     text NOT NULL CHECK (account ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    role        text NOT NULL CHECK (role IN ('viewer', 'trader', 'operator')),
    secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),
    note        text NOT NULL CHECK (length(note) <= 200),
    create_time timestamptz NOT NULL DEFAULT now(),
    revoke_time timestamptz
);

-- What an account may do, where that differs from the gateways' settings; NULL: as they say.
CREATE TABLE account_limits (
    account              text PRIMARY KEY CHECK (account ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    orders_per_minute    integer CHECK (orders_per_minute >= 0),
    max_open_orders      integer CHECK (max_open_orders >= 0),
    max_streams          integer CHECK (max_streams >= 0),
    -- Mints; none: all.
    allowed_tokens       text[] NOT NULL,
    -- The largest amounts in, and their mints.
    limited_tokens       text[] NOT NULL,
    max_amounts_in       amount[] NOT NULL,
    max_price_impact_bps integer CHECK (max_price_impact_bps BETWEEN 0 AND 10000),
    CONSTRAINT an_amount_a_token CHECK (cardinality(limited_tokens) = cardinality(max_amounts_in))
);

-- When an account that orders nothing more may order its whole burst again: the only state that
-- an exact rate needs. Locked by whoever accepts orders of that account.
CREATE TABLE account_rates (
    account text PRIMARY KEY,
    full_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- An account's orders that are not settled, by what is committed now: volatile, so it sees what was
-- committed while the statement that asks waited for its lock. The fence keeps to the index of open
-- orders, which are few.
CREATE FUNCTION open_orders(wanted text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT count(*) FROM (SELECT account FROM orders WHERE NOT settled OFFSET 0) AS o
     WHERE o.account = wanted
$$;

-- Whether orders are accepted and signed: one row, read by the statements that do either.
CREATE TABLE trading (
    one_row  boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    state    text NOT NULL CHECK (state IN ('active', 'cancel_only', 'halted')),
    why      text NOT NULL,
    set_time timestamptz NOT NULL DEFAULT now(),
    key_id   text NOT NULL,
    CONSTRAINT why_not CHECK (state = 'active' OR why <> '')
);
INSERT INTO trading (state, why, key_id) VALUES ('active', '', '');
