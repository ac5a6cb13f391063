-- Checkpoints that were found damaged. Their step may be trained again and have another checkpoint.
ALTER TABLE checkpoints
    ADD COLUMN damaged_at timestamptz,
    ADD COLUMN damage text,
    ADD COLUMN closed_in bigint,
    ADD CHECK ((damaged_at IS NULL) = (damage IS NULL)),
    DROP CONSTRAINT checkpoints_stage_step_key;

COMMENT ON COLUMN checkpoints.damaged_at IS 'When it was found damaged; nothing starts from it any more';
COMMENT ON COLUMN checkpoints.damage IS 'What is wrong with which object';
COMMENT ON COLUMN checkpoints.closed_in IS
    'The generation of its stage when it was dropped or found damaged: parts that this or an earlier one wrote are old news';

CREATE UNIQUE INDEX checkpoints_of_use ON checkpoints (stage, step) WHERE damaged_at IS NULL AND dropped_at IS NULL;
CREATE INDEX checkpoints_closed ON checkpoints (stage, step) WHERE closed_in IS NOT NULL;
