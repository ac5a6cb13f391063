-- States that were found to differ between the ranks of a generation.
CREATE TABLE doubts (
    stage uuid NOT NULL REFERENCES stages,
    generation bigint NOT NULL,
    proven bigint NOT NULL CHECK (proven >= 0),
    reason text NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stage, generation)
);

COMMENT ON TABLE doubts IS 'What is not to be trusted of a stage, because the states of its ranks differed';
COMMENT ON COLUMN doubts.stage IS 'The stage';
COMMENT ON COLUMN doubts.generation IS 'The last generation made before that was known: memories of this or an earlier one are not used again';
COMMENT ON COLUMN doubts.proven IS 'What these generations hand in is not accepted for more committed steps';
COMMENT ON COLUMN doubts.reason IS 'What differed, in words';
COMMENT ON COLUMN doubts.raised_at IS 'When it became known';
