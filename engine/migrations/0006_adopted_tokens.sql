-- A swap by way of a third token leaves some of it in the wallet: a row for each token received,
-- since only the client's request tells which of them was asked for.
ALTER TABLE adopted_swaps DROP CONSTRAINT adopted_swaps_pkey,
    ADD PRIMARY KEY (signature, token_out);
