-- When a server B last heard the replicas, or would have, had they said anything, and since when without a break: an empty
-- list of replicas means that there are none only then.
CREATE TABLE replica_intake (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    heard_at    timestamptz NOT NULL DEFAULT '-infinity',
    heard_since timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO replica_intake DEFAULT VALUES;
