-- Indexes with every column that filters read, so that a few rows of a kind, a model or a time are found fast.
CREATE INDEX pairs_kind ON pairs(kind, id, undone, effect, created, rating, model);
CREATE INDEX pairs_model ON pairs(model, id, undone, effect, created, rating, kind);
CREATE INDEX pairs_created ON pairs(created);
