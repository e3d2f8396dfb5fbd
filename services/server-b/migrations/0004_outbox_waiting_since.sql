-- When the oldest change was made that a coalesced row stands for; NULL where it stands for itself alone. By the newest's own
-- time a change that waited for hours would seem to be of this moment.
ALTER TABLE outbox ADD COLUMN waiting_since timestamptz;
