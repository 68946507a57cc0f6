-- What a batch writes, one value a row: a single parameter costs a fraction of an array a column.
CREATE TYPE new_order AS (
    order_id                 uuid,
    account                  text,
    client_order_id          text,
    order_type               text,
    token_in                 text,
    token_out                text,
    amount_in                numeric,
    slippage_bps             integer,
    requested_min_amount_out numeric,
    venues                   text[],
    expire_time              timestamptz,
    key_hash                 text
);
CREATE TYPE order_move AS (
    order_id             uuid,
    replaces             integer,
    sequence             integer,
    signs                boolean,
    backoff              interval,
    check_after          interval,
    status               text,
    settled              boolean,
    min_amount_out       numeric,
    venue                text,
    pool                 text,
    quoted_amount_out    numeric,
    retries              smallint,
    cancel_requested     boolean,
    error_reason         text,
    error_message        text,
    filled_amount_in     numeric,
    amount_out           numeric,
    fill_slot            bigint,
    fill_signature       text,
    network_fee_lamports bigint
);
CREATE TYPE order_step AS (
    order_id        uuid,
    sequence        integer,
    type            text,
    previous_status text,
    status          text,
    settled         boolean,
    venue           text,
    detail          text
);
CREATE TYPE signed_attempt AS (
    order_id                uuid,
    number                  smallint,
    venue                   text,
    pool                    text,
    signature               text,
    blockhash               text,
    last_valid_block_height bigint,
    min_amount_out          numeric,
    transaction             bytea,
    resolution              text,
    evidence                text
);

-- Due orders are looked for among those that are not settled, which are few. An index that named
-- status or time would have to be written again with every step of every order.
DROP INDEX orders_to_offer;
DROP INDEX orders_to_settle;
CREATE INDEX orders_open ON orders (order_id) WHERE NOT settled;
-- Room for an order's next versions beside the first, so that they need no new index entries.
ALTER TABLE orders SET (fillfactor = 60);

-- Where the log of all events stands. Positions grow with the transactions that wrote the events;
-- what was committed with a position below the oldest transaction still running is complete.
-- A copy of the database in another server counts on from the highest position that it holds.
CREATE TABLE event_log (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    home    text,
    base    bigint NOT NULL,
    -- Events below this position may have been deleted.
    oldest  bigint NOT NULL DEFAULT 0
);
INSERT INTO event_log (home, base) VALUES (signing_home(), 0);

CREATE FUNCTION event_position(transaction_id xid8) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT base + transaction_id::text::bigint FROM event_log
$$;

ALTER TABLE order_events ADD COLUMN venue text;
ALTER TABLE order_events ADD COLUMN position bigint NOT NULL DEFAULT 0;
ALTER TABLE order_events ALTER COLUMN position DROP DEFAULT;
CREATE INDEX order_events_by_position ON order_events (position);

-- Whoever deletes old events need not know of those who resume after them.
CREATE FUNCTION note_deleted_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE event_log SET oldest = greatest(oldest, (SELECT max(position) + 1 FROM deleted));
    RETURN NULL;
END $$;
CREATE TRIGGER deleted_events AFTER DELETE ON order_events
    REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION note_deleted_events();
