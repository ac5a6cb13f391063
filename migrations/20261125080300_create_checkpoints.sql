-- Checkpoints of training stages: requests, parts handed in, committed manifests.
CREATE TABLE checkpoint_requests (
    id uuid PRIMARY KEY,
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL CHECK (step > 0),
    requested_at timestamptz NOT NULL DEFAULT now(),
    answered_at timestamptz
);

COMMENT ON TABLE checkpoint_requests IS 'Checkpoints asked for over REST, carried to the ranks in the orders';
COMMENT ON COLUMN checkpoint_requests.id IS 'Identity';
COMMENT ON COLUMN checkpoint_requests.stage IS 'The stage that takes it';
COMMENT ON COLUMN checkpoint_requests.step IS 'Due after this many committed steps';
COMMENT ON COLUMN checkpoint_requests.requested_at IS 'When it was asked for';
COMMENT ON COLUMN checkpoint_requests.answered_at IS 'When a checkpoint at or above its step was committed';

CREATE UNIQUE INDEX checkpoint_requests_open ON checkpoint_requests (stage) WHERE answered_at IS NULL;

CREATE TABLE checkpoint_parts (
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL,
    parts integer NOT NULL CHECK (parts > 0),
    state_bytes bigint NOT NULL CHECK (state_bytes > 0),
    part integer NOT NULL CHECK (part >= 0 AND part < parts),
    offset_bytes bigint NOT NULL CHECK (offset_bytes >= 0),
    generation bigint NOT NULL,
    object jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stage, step, parts, state_bytes, part)
);

COMMENT ON TABLE checkpoint_parts IS 'Parts that ranks have written and verified: facts, whatever became of their generation';
COMMENT ON COLUMN checkpoint_parts.stage IS 'The stage';
COMMENT ON COLUMN checkpoint_parts.step IS 'Committed steps of the state';
COMMENT ON COLUMN checkpoint_parts.parts IS 'Number of parts it is cut into';
COMMENT ON COLUMN checkpoint_parts.state_bytes IS 'Size of the whole state';
COMMENT ON COLUMN checkpoint_parts.part IS 'Index of this part';
COMMENT ON COLUMN checkpoint_parts.offset_bytes IS 'First byte of the state that it holds';
COMMENT ON COLUMN checkpoint_parts.generation IS 'The generation that wrote it';
COMMENT ON COLUMN checkpoint_parts.object IS 'The object: key, BLAKE3, size';
COMMENT ON COLUMN checkpoint_parts.received_at IS 'When it was handed in';

CREATE TABLE checkpoints (
    id uuid PRIMARY KEY,
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL,
    manifest jsonb NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    UNIQUE (stage, step)
);

COMMENT ON TABLE checkpoints IS 'Whole checkpoints; committed when their last part came';
COMMENT ON COLUMN checkpoints.id IS 'Identity';
COMMENT ON COLUMN checkpoints.stage IS 'The stage that wrote it';
COMMENT ON COLUMN checkpoints.step IS 'Committed steps';
COMMENT ON COLUMN checkpoints.manifest IS 'Its parts in order, as ranks load it';
COMMENT ON COLUMN checkpoints.committed_at IS 'When it became whole';
COMMENT ON COLUMN checkpoints.dropped_at IS 'When retention gave it up; nothing starts from it any more';
