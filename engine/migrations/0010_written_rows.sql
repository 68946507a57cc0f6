-- Rows of a batch whose facts are sent as text. Running services keep what they know of a type, so
-- those that are there stay as they are, and what must be otherwise has a new name. Some databases
-- have the first two already: 0009 once made them, and resolved_attempt with its evidence as text.
DO $$
BEGIN
    IF to_regtype('moved_order') IS NULL THEN
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
    END IF;
    IF to_regtype('new_attempt') IS NULL THEN
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
    END IF;
END
$$;
CREATE TYPE ended_attempt AS (
    order_id   uuid,
    number     smallint,
    resolution text,
    evidence   text
);
