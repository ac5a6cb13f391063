-- Nodes, and who of the coordinators schedules them.
CREATE TABLE nodes (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    incarnation uuid NOT NULL,
    host text NOT NULL,
    devices integer NOT NULL CHECK (devices > 0),
    threads integer NOT NULL CHECK (threads > 0),
    fingerprint text NOT NULL,
    revision bigint NOT NULL DEFAULT 0,
    registered_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE nodes IS 'Machines, as their agents registered them; heartbeats stay in the leader''s memory';
COMMENT ON COLUMN nodes.id IS 'Identity, the same for one name for ever';
COMMENT ON COLUMN nodes.name IS 'Name, unique in the cluster';
COMMENT ON COLUMN nodes.incarnation IS 'The present life of its agent; claims of earlier ones are stale';
COMMENT ON COLUMN nodes.host IS 'Host under which other nodes reach its ranks';
COMMENT ON COLUMN nodes.devices IS 'Ranks it can run at once';
COMMENT ON COLUMN nodes.threads IS 'Threads of each rank';
COMMENT ON COLUMN nodes.fingerprint IS 'Numerics fingerprint of its ranks';
COMMENT ON COLUMN nodes.revision IS 'Revision of its orders; grows with every change';
COMMENT ON COLUMN nodes.registered_at IS 'When its agent last registered';

CREATE TABLE leader (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    term bigint NOT NULL DEFAULT 0,
    holder uuid,
    beat_at timestamptz NOT NULL DEFAULT '-infinity'
);

INSERT INTO leader DEFAULT VALUES;

COMMENT ON TABLE leader IS 'One row: the coordinator that schedules';
COMMENT ON COLUMN leader.is_only IS 'Keeps the table at one row';
COMMENT ON COLUMN leader.term IS 'Grows with every takeover; scheduling transactions check theirs';
COMMENT ON COLUMN leader.holder IS 'The coordinator that leads in this term';
COMMENT ON COLUMN leader.beat_at IS 'When it last said so, by the database''s clock';
