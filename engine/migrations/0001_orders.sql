-- Tokens that orders may name.
CREATE TABLE tokens (
    mint     text PRIMARY KEY,
    symbol   text NOT NULL UNIQUE,
    decimals smallint NOT NULL CHECK (decimals BETWEEN 0 AND 18)
);

INSERT INTO tokens (symbol, mint, decimals) VALUES
    ('SOL',  'So11111111111111111111111111111111111111112', 9),
    ('USDC', 'EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v', 6),
    ('USDT', 'Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB', 6),
    ('RAY',  '4k3Dyjzvzp8eMZWUXbBCjEvwSkkk59S5iCNLY3QrkX6R', 6),
    ('JUP',  'JUPyiwrYJFskUPiHa7hkeR8VUtAeFoSYbKedZNsDvCN', 6),
    ('BONK', 'DezXAZ8z7PnrnRJjz3wXBoRgixCa6xjnB7YaB1pPB263', 5);

-- An amount on chain is a u64, in base units.
CREATE DOMAIN amount AS numeric(20, 0) CHECK (VALUE BETWEEN 1 AND 18446744073709551615);

CREATE TABLE orders (
    order_id                 uuid PRIMARY KEY,
    account                  text NOT NULL,
    client_order_id          text CHECK (client_order_id ~ '^[A-Za-z0-9_.:-]{1,64}$'),

    -- The request, as normalised; never changes.
    order_type               text NOT NULL CHECK (order_type IN ('market')),
    token_in                 text NOT NULL REFERENCES tokens,
    token_out                text NOT NULL REFERENCES tokens,
    amount_in                amount NOT NULL,
    slippage_bps             integer CHECK (slippage_bps BETWEEN 0 AND 5000),
    requested_min_amount_out amount,
    venues                   text[] NOT NULL,
    expire_time              timestamptz,

    -- Where it stands. `sequence` is the version: one more with every event.
    status                   text NOT NULL CHECK (status IN (
        'pending', 'routing', 'building', 'submitted',
        'confirmed', 'failed', 'cancelled', 'expired')),
    settled                  boolean NOT NULL DEFAULT false,
    sequence                 integer NOT NULL CHECK (sequence > 0),
    min_amount_out           amount,
    venue                    text,
    pool                     text,
    quoted_amount_out        amount,
    retries                  smallint NOT NULL DEFAULT 0 CHECK (retries BETWEEN 0 AND 3),
    cancel_requested         boolean NOT NULL DEFAULT false,
    error_reason             text,
    error_message            text,

    -- What the landed swap really did, read from the chain.
    filled_amount_in         amount,
    amount_out               amount,
    fill_slot                bigint,
    fill_signature           text,
    network_fee_lamports     bigint,

    -- When to look again: nobody before not_before, somebody at next_check_at.
    not_before               timestamptz,
    next_check_at            timestamptz,
    offers                   smallint NOT NULL DEFAULT 0,

    create_time              timestamptz NOT NULL,
    update_time              timestamptz NOT NULL,
    complete_time            timestamptz,

    UNIQUE (account, client_order_id),
    CONSTRAINT pair_of_two CHECK (token_in <> token_out),
    CONSTRAINT one_price_protection
        CHECK ((slippage_bps IS NULL) <> (requested_min_amount_out IS NULL)),
    CONSTRAINT route_is_whole
        CHECK ((venue IS NULL) = (pool IS NULL) AND (venue IS NULL) = (quoted_amount_out IS NULL)),
    CONSTRAINT route_pins_the_floor CHECK (venue IS NULL OR min_amount_out IS NOT NULL),
    CONSTRAINT route_before_building
        CHECK (status NOT IN ('building', 'submitted', 'confirmed') OR venue IS NOT NULL),
    CONSTRAINT confirmed_means_filled CHECK ((status = 'confirmed') = (amount_out IS NOT NULL)),
    CONSTRAINT fill_is_whole CHECK (
        (amount_out IS NULL) = (filled_amount_in IS NULL)
        AND (amount_out IS NULL) = (fill_slot IS NULL)
        AND (amount_out IS NULL) = (fill_signature IS NULL)
        AND (amount_out IS NULL) = (network_fee_lamports IS NULL)),
    CONSTRAINT floor_kept CHECK (amount_out >= min_amount_out),
    CONSTRAINT failed_means_reason CHECK (status <> 'failed' OR error_reason IS NOT NULL),
    CONSTRAINT error_is_whole CHECK ((error_reason IS NULL) = (error_message IS NULL)),
    CONSTRAINT complete_means_final CHECK (
        (status IN ('confirmed', 'failed', 'cancelled', 'expired')) = (complete_time IS NOT NULL)),
    CONSTRAINT ended_without_a_swap_is_settled
        CHECK (status NOT IN ('failed', 'cancelled', 'expired') OR settled),
    CONSTRAINT settled_means_final CHECK (
        NOT settled OR status IN ('confirmed', 'failed', 'cancelled', 'expired')),
    -- Rule R8: whatever is not settled is looked at again.
    CONSTRAINT unsettled_is_checked CHECK (settled = (next_check_at IS NULL))
);

CREATE INDEX orders_by_account ON orders (account, order_id);
-- What the reconciler re-offers, and what the settlement follows; finished orders are in neither.
CREATE INDEX orders_to_offer ON orders (next_check_at)
    WHERE NOT settled AND status IN ('pending', 'routing', 'building');
CREATE INDEX orders_to_settle ON orders (next_check_at)
    WHERE NOT settled AND status IN ('submitted', 'confirmed');

-- Rule R6: once set, the floor stays.
CREATE FUNCTION refuse_floor_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the floor of order % is pinned', OLD.order_id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'floor_pinned';
END $$;

CREATE TRIGGER floor_pinned BEFORE UPDATE ON orders FOR EACH ROW
    WHEN (OLD.min_amount_out IS NOT NULL AND NEW.min_amount_out IS DISTINCT FROM OLD.min_amount_out)
    EXECUTE FUNCTION refuse_floor_change();

-- One row a signed transaction, committed before its first byte is sent (rule R1).
CREATE TABLE attempts (
    order_id                uuid NOT NULL REFERENCES orders,
    number                  smallint NOT NULL CHECK (number > 0),
    venue                   text NOT NULL,
    pool                    text NOT NULL,
    signature               text NOT NULL UNIQUE,
    blockhash               text NOT NULL,
    last_valid_block_height bigint NOT NULL,
    min_amount_out          amount NOT NULL,
    transaction             bytea NOT NULL,
    sign_time               timestamptz NOT NULL,
    resolution              text CHECK (
        resolution IN ('landed', 'landed_with_error', 'expired_unlanded')),
    evidence                jsonb,
    PRIMARY KEY (order_id, number),
    CONSTRAINT resolved_on_evidence CHECK ((resolution IS NULL) = (evidence IS NULL))
);

-- Rule R2: one live attempt an order, whatever the queue delivers and whoever wakes up late.
CREATE UNIQUE INDEX one_live_attempt ON attempts (order_id) WHERE resolution IS NULL;

-- What happened, in order; the sequence is the order's version, so it has no gaps.
CREATE TABLE order_events (
    order_id        uuid NOT NULL,
    sequence        integer NOT NULL CHECK (sequence > 0),
    type            text NOT NULL,
    previous_status text,
    status          text NOT NULL,
    settled         boolean NOT NULL,
    time            timestamptz NOT NULL,
    detail          jsonb NOT NULL,
    PRIMARY KEY (order_id, sequence)
);
