-- Amounts of a batch come as digits, which cost the client a tenth of a numeric each.
ALTER TYPE new_order ALTER ATTRIBUTE amount_in TYPE text,
    ALTER ATTRIBUTE requested_min_amount_out TYPE text;
ALTER TYPE order_move ALTER ATTRIBUTE min_amount_out TYPE text,
    ALTER ATTRIBUTE quoted_amount_out TYPE text, ALTER ATTRIBUTE filled_amount_in TYPE text,
    ALTER ATTRIBUTE amount_out TYPE text;
ALTER TYPE signed_attempt ALTER ATTRIBUTE min_amount_out TYPE text;
