-- Which samples every committed step has read, for jobs that keep a ledger.
CREATE TABLE ledger (
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL CHECK (step >= 0),
    entry json NOT NULL,
    PRIMARY KEY (stage, step)
);

COMMENT ON TABLE ledger IS 'Samples read, one row per committed step; stored together with the row of its metrics';
COMMENT ON COLUMN ledger.stage IS 'The stage';
COMMENT ON COLUMN ledger.step IS 'The step, from 0';
COMMENT ON COLUMN ledger.entry IS 'Its lanes with positions and samples, as the ranks sent it';
