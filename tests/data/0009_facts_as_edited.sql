-- Facts are kept as they were written: to take them apart and sort their keys was a sixth of what
-- the database did for an order. The operators -> and ->> are the same.
ALTER TABLE order_events ALTER COLUMN detail TYPE json USING detail::json;
ALTER TABLE orders ALTER COLUMN legs TYPE json USING legs::json;
ALTER TABLE attempts
    ALTER COLUMN legs TYPE json USING legs::json,
    ALTER COLUMN evidence TYPE json USING evidence::json;

-- Rows of a batch. order_move and signed_attempt stay as they are: services of the release before
-- go on writing with them.
CREATE TYPE moved_order AS (
    order_id             uuid,
    replaces             integer,
    sequence             integer,
    signs                boolean,
    backoff              interval,
    check_after          interval,
    status               text,
    settled              boolean,
    min_amount_out       text,
    venue                text,
    quoted_amount_out    text,
    retries              smallint,
    cancel_requested     boolean,
    error_reason         text,
    error_message        text,
    filled_amount_in     text,
    amount_out           text,
    fill_slot            bigint,
    fill_signature       text,
    network_fee_lamports bigint,
    legs                 text
);
CREATE TYPE new_attempt AS (
    order_id                uuid,
    number                  smallint,
    venue                   text,
    signature               text,
    blockhash               text,
    last_valid_block_height bigint,
    min_amount_out          text,
    transaction             bytea,
    resolution              text,
    evidence                text,
    legs                    text
);
CREATE TYPE resolved_attempt AS (
    order_id   uuid,
    number     smallint,
    resolution text,
    evidence   text
);
