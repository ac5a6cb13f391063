-- What a stage cost: ranks and memory, which are also wanted when it is over.
ALTER TABLE stages
    ADD COLUMN world integer NOT NULL DEFAULT 0 CHECK (world >= 0),
    ADD COLUMN peak_rank_bytes bigint CHECK (peak_rank_bytes > 0);

COMMENT ON COLUMN stages.world IS 'Ranks of the last generation';
COMMENT ON COLUMN stages.peak_rank_bytes IS 'Most memory that one of its ranks has had resident';

UPDATE stages SET world = jsonb_array_length(membership #> '{generation,seats}') WHERE membership IS NOT NULL;
