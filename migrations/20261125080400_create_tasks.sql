-- Leased work and the dataset versions that it makes.
CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    stage uuid NOT NULL REFERENCES stages,
    position integer NOT NULL,
    work jsonb NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'leased', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    token uuid,
    lease_until timestamptz,
    node uuid REFERENCES nodes,
    rank integer,
    output jsonb,
    reason text NOT NULL DEFAULT '',
    finished_at timestamptz,
    UNIQUE (stage, position),
    CHECK ((state = 'leased') = (token IS NOT NULL AND lease_until IS NOT NULL)),
    CHECK ((state = 'done') = (output IS NOT NULL))
);

COMMENT ON TABLE tasks IS 'Units of leased work: shards, and the merge that follows them';
COMMENT ON COLUMN tasks.id IS 'Identity';
COMMENT ON COLUMN tasks.stage IS 'The stage';
COMMENT ON COLUMN tasks.position IS 'Order in which tasks are handed out';
COMMENT ON COLUMN tasks.work IS 'What to do';
COMMENT ON COLUMN tasks.state IS 'State; a lease that ran out is as good as open';
COMMENT ON COLUMN tasks.attempts IS 'How often it was leased and not given back through no fault of its own';
COMMENT ON COLUMN tasks.token IS 'Proves the lease';
COMMENT ON COLUMN tasks.lease_until IS 'When the lease runs out';
COMMENT ON COLUMN tasks.node IS 'Node that last leased it';
COMMENT ON COLUMN tasks.rank IS 'Rank that last leased it';
COMMENT ON COLUMN tasks.output IS 'Its result';
COMMENT ON COLUMN tasks.reason IS 'Why the last attempt failed';
COMMENT ON COLUMN tasks.finished_at IS 'When it was done or failed';

CREATE INDEX tasks_unfinished ON tasks (stage, position) WHERE state IN ('open', 'leased');

CREATE TABLE dataset_versions (
    id uuid PRIMARY KEY,
    job uuid NOT NULL REFERENCES jobs,
    version integer NOT NULL CHECK (version >= 0),
    parent uuid REFERENCES dataset_versions,
    stage uuid NOT NULL REFERENCES stages,
    object jsonb NOT NULL,
    vocab jsonb NOT NULL,
    counts jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (job, version)
);

COMMENT ON TABLE dataset_versions IS 'Immutable dataset versions';
COMMENT ON COLUMN dataset_versions.id IS 'Identity';
COMMENT ON COLUMN dataset_versions.job IS 'The job';
COMMENT ON COLUMN dataset_versions.version IS 'Number in its job, from 0';
COMMENT ON COLUMN dataset_versions.parent IS 'The version it was made from';
COMMENT ON COLUMN dataset_versions.stage IS 'The stage that made it';
COMMENT ON COLUMN dataset_versions.object IS 'Its manifest';
COMMENT ON COLUMN dataset_versions.vocab IS 'Its vocabulary';
COMMENT ON COLUMN dataset_versions.counts IS 'Pairs by source; broken samples by reason';
COMMENT ON COLUMN dataset_versions.created_at IS 'When it was made';
