-- How much of the strength was applied at which tokens of an answer.
ALTER TABLE answers ADD COLUMN gate TEXT NOT NULL DEFAULT '[]';
ALTER TABLE answers ADD COLUMN dial TEXT NOT NULL DEFAULT '[]';
