-- The columns that filters read come first in pairs: SQLite then reads them without the long texts after them.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    started TEXT NOT NULL,
    title TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    system TEXT NOT NULL DEFAULT '',
    ended TEXT
);
CREATE TABLE experiments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id INTEGER REFERENCES sessions(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    prompt TEXT NOT NULL,
    spec TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'complete', 'interrupted', 'failed')),
    started TEXT NOT NULL,
    finished TEXT,
    owner TEXT
);
CREATE INDEX experiments_session ON experiments(session_id);
CREATE INDEX experiments_running ON experiments(owner) WHERE status = 'running';
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    token_ids TEXT NOT NULL,
    finish TEXT NOT NULL,
    perplexity REAL,
    repetition REAL
);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id INTEGER REFERENCES sessions(id) ON DELETE CASCADE,
    experiment_id INTEGER REFERENCES experiments(id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'complete', 'interrupted', 'failed')),
    undone INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL,
    completed TEXT,
    effect REAL,
    chance_low REAL,
    chance_high REAL,
    perplexity_ratio REAL,
    layer INTEGER,
    strength REAL,
    rating TEXT CHECK (rating IN ('steered', 'normal', 'tie')),
    reads_better TEXT CHECK (reads_better IN ('steered', 'normal', 'tie')),
    shown_first TEXT CHECK (shown_first IN ('steered', 'normal')),
    rated TEXT,
    model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    normal_id INTEGER REFERENCES answers(id),
    steered_id INTEGER REFERENCES answers(id),
    normal_indexed INTEGER NOT NULL DEFAULT 0,
    normal_concept_score REAL,
    steered_concept_score REAL,
    diverges_at INTEGER,
    seconds REAL,
    tokens_per_second REAL,
    seed INTEGER NOT NULL,
    raw INTEGER NOT NULL DEFAULT 0,
    device TEXT NOT NULL,
    dtype TEXT NOT NULL,
    threads INTEGER,
    owner TEXT,
    note TEXT NOT NULL DEFAULT '',
    prompt TEXT NOT NULL,
    recipe_text TEXT NOT NULL,
    recipe TEXT NOT NULL,
    sampling TEXT NOT NULL,
    versions TEXT NOT NULL,
    effects TEXT NOT NULL DEFAULT '{}',
    messages TEXT NOT NULL
);
CREATE INDEX pairs_session ON pairs(session_id, undone);
CREATE INDEX pairs_experiment ON pairs(experiment_id);
CREATE INDEX pairs_normal ON pairs(normal_id);
CREATE INDEX pairs_steered ON pairs(steered_id);
CREATE INDEX pairs_running ON pairs(owner) WHERE status = 'running';
-- A narrow copy of pairs in the order of listing: a filter that few rows pass reads this, not the texts.
CREATE INDEX pairs_narrow ON pairs(id, undone, kind, effect, created, rating, model);
CREATE TABLE pair_concepts (
    pair_id INTEGER NOT NULL REFERENCES pairs(id) ON DELETE CASCADE,
    concept TEXT NOT NULL,
    layer_first INTEGER NOT NULL,
    layer_last INTEGER NOT NULL,
    strength REAL NOT NULL,
    PRIMARY KEY (pair_id, concept, layer_first, layer_last, strength)
) WITHOUT ROWID;
CREATE INDEX pair_concepts_concept ON pair_concepts(concept, pair_id, layer_first, layer_last, strength);
CREATE TABLE measures (
    id INTEGER PRIMARY KEY,
    pair_id INTEGER NOT NULL REFERENCES pairs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value REAL,
    UNIQUE (pair_id, name)
);

-- The index holds no copy of the texts: it reads them through pair_texts, and has to get the old ones before they are
-- deleted. Triggers do that, so that the index stays right even when another program deletes a row.
CREATE VIEW pair_texts AS
SELECT pairs.id, pairs.prompt, CASE WHEN pairs.normal_indexed THEN normal.text END AS normal, steered.text AS steered
FROM pairs
LEFT JOIN answers AS normal ON normal.id = pairs.normal_id
LEFT JOIN answers AS steered ON steered.id = pairs.steered_id;

CREATE VIRTUAL TABLE pair_search USING fts5(
    prompt, normal, steered, content='pair_texts', content_rowid='id', tokenize='unicode61 remove_diacritics 2'
);

CREATE TRIGGER pairs_insert_search AFTER INSERT ON pairs BEGIN
    INSERT INTO pair_search(rowid, prompt, normal, steered)
    SELECT id, prompt, normal, steered FROM pair_texts WHERE id = NEW.id;
END;
CREATE TRIGGER pairs_before_update_search
BEFORE UPDATE OF prompt, normal_id, steered_id, normal_indexed ON pairs BEGIN
    INSERT INTO pair_search(pair_search, rowid, prompt, normal, steered)
    SELECT 'delete', id, prompt, normal, steered FROM pair_texts WHERE id = OLD.id;
END;
CREATE TRIGGER pairs_after_update_search
AFTER UPDATE OF prompt, normal_id, steered_id, normal_indexed ON pairs BEGIN
    INSERT INTO pair_search(rowid, prompt, normal, steered)
    SELECT id, prompt, normal, steered FROM pair_texts WHERE id = NEW.id;
END;
CREATE TRIGGER pairs_delete_search BEFORE DELETE ON pairs BEGIN
    INSERT INTO pair_search(pair_search, rowid, prompt, normal, steered)
    SELECT 'delete', id, prompt, normal, steered FROM pair_texts WHERE id = OLD.id;
END;
-- A shared normal answer stays searchable under the next pair that uses it, and goes with the last one.
CREATE TRIGGER pairs_update_answers AFTER UPDATE OF normal_id, steered_id ON pairs BEGIN
    UPDATE pairs SET normal_indexed = 1
    WHERE OLD.normal_indexed AND id = (SELECT min(id) FROM pairs WHERE normal_id = OLD.normal_id);
    DELETE FROM answers
    WHERE id IN (OLD.normal_id, OLD.steered_id)
      AND NOT EXISTS (SELECT 1 FROM pairs WHERE answers.id = normal_id)
      AND NOT EXISTS (SELECT 1 FROM pairs WHERE answers.id = steered_id);
END;
CREATE TRIGGER pairs_delete_answers AFTER DELETE ON pairs BEGIN
    UPDATE pairs SET normal_indexed = 1
    WHERE OLD.normal_indexed AND id = (SELECT min(id) FROM pairs WHERE normal_id = OLD.normal_id);
    DELETE FROM answers
    WHERE id IN (OLD.normal_id, OLD.steered_id)
      AND NOT EXISTS (SELECT 1 FROM pairs WHERE answers.id = normal_id)
      AND NOT EXISTS (SELECT 1 FROM pairs WHERE answers.id = steered_id);
END;

CREATE VIEW pair_view AS
SELECT
    pairs.id, pairs.created, pairs.completed, pairs.session_id, sessions.title AS session, pairs.experiment_id,
    pairs.kind, pairs.status, pairs.undone, pairs.model, pairs.prompt, normal.text AS normal, steered.text AS steered,
    pairs.recipe_text AS recipe,
    (SELECT group_concat(DISTINCT concept) FROM pair_concepts WHERE pair_id = pairs.id) AS concepts,
    pairs.layer, pairs.strength, pairs.effect, pairs.chance_low, pairs.chance_high, pairs.perplexity_ratio,
    pairs.diverges_at, normal.perplexity AS normal_perplexity, steered.perplexity AS steered_perplexity,
    pairs.normal_concept_score, pairs.steered_concept_score,
    normal.repetition AS normal_repetition, steered.repetition AS steered_repetition,
    normal.tokens AS normal_tokens, steered.tokens AS steered_tokens,
    normal.finish AS normal_finish, steered.finish AS steered_finish,
    pairs.seconds, pairs.tokens_per_second, pairs.rating, pairs.reads_better, pairs.shown_first, pairs.rated,
    pairs.note, pairs.seed, pairs.raw, pairs.sampling, pairs.fingerprint, pairs.device, pairs.dtype,
    pairs.threads, pairs.versions
FROM pairs
LEFT JOIN sessions ON sessions.id = pairs.session_id
LEFT JOIN answers AS normal ON normal.id = pairs.normal_id
LEFT JOIN answers AS steered ON steered.id = pairs.steered_id;
