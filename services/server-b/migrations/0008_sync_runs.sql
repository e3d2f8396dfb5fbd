-- The runs of a full sync that followed its first, in their order: each time another server B took it over. The first has the
-- id of the sync. What a replica hears of a run names the run, so late rows of one that lost its lock are not taken for
-- another's.
ALTER TABLE syncs ADD COLUMN later_runs uuid[] NOT NULL DEFAULT '{}';
