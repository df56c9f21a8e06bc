-- Which vectors a pair was steered with, and which pairs its conversation consists of.
ALTER TABLE pairs ADD COLUMN vectors TEXT NOT NULL DEFAULT '{}';
ALTER TABLE pairs ADD COLUMN context TEXT NOT NULL DEFAULT '[]';
