-- Objects that only checkpoints needed which were given up, and what retention goes by.
CREATE TABLE doomed_objects (
    stage uuid NOT NULL REFERENCES stages,
    step bigint NOT NULL,
    key text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stage, key)
);

COMMENT ON TABLE doomed_objects IS 'Objects of checkpoints that were given up, until they are deleted or something names them again';
COMMENT ON COLUMN doomed_objects.stage IS 'The stage that wrote it';
COMMENT ON COLUMN doomed_objects.step IS 'Committed steps of the state that it is a part of';
COMMENT ON COLUMN doomed_objects.key IS 'Key in the object store';
COMMENT ON COLUMN doomed_objects.since IS 'When it was last given up';

CREATE INDEX doomed_objects_by_age ON doomed_objects (since);

CREATE VIEW ripe_objects AS
SELECT d.stage, d.step, d.key, d.since
FROM doomed_objects d
JOIN stages s ON s.id = d.stage
WHERE s.state IN ('done', 'failed', 'cancelled')
   OR EXISTS (SELECT FROM checkpoints c
              WHERE c.stage = d.stage AND c.step >= d.step AND c.dropped_at IS NULL AND c.damaged_at IS NULL);

COMMENT ON VIEW ripe_objects IS 'Doomed objects whose stage cannot train their step again';

ALTER TABLE checkpoints ADD COLUMN mean_loss double precision;

COMMENT ON COLUMN checkpoints.mean_loss IS 'Mean sum of losses over the steps since the checkpoint before it';
