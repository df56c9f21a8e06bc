"""The history's tables, created and changed by the numbered scripts in `sql/`.

The file is plain SQLite (WAL), which `sqlite3`, Datasette or pandas can read too:
`pandas.read_sql("SELECT * FROM pair_view", sqlite3.connect(path))`. Times are ISO 8601 in UTC with
milliseconds, for example 2026-01-31T12:00:00.000Z; columns marked JSON hold JSON text.

pair_view      one row for each pair with what a reader wants: both texts, the recipe in words, measures, cost,
               rating, session title, experiment. Start here.
sessions       one row for each conversation: started, title (from its first message), model, fingerprint
               (of the model's weights), system (the system prompt), ended.
experiments    one row for each sweep or comparison: session_id, kind, prompt, spec (JSON: the request), status,
               started, finished. Deleting it deletes its pairs.
pairs          one row for each prompt with its normal and steered answer, written before generation starts.
  session_id, experiment_id        the conversation and the experiment that it belongs to
  kind                             chat, compare, layers, strengths, mix, ...
  status                           running, complete, interrupted (stopped or killed) or failed
  undone                           1: the user undid it; it is no part of the conversation any more
  created, completed               when generation started and ended
  effect, chance_low, chance_high  how far steering moved the answer along the concept, in standard
                                   deviations of a neutral corpus, and the range of random pushes' effects
  perplexity_ratio                 cost: steered over normal perplexity, both read by the unsteered model
  layer, strength                  the pair's place in a sweep
  rating, rated, note              the user's rating (steered, normal or tie), its time, and a note
  reads_better, shown_first        in a blind review: which answer read better, and which was shown first
  model, fingerprint, device, dtype, threads, versions (JSON), seed, sampling (JSON), raw (1: outside the
  chat template), messages (JSON {"normal": [...], "steered": [...]}), recipe (JSON), recipe_text
                                   everything that a rerun needs
  vectors (JSON {concept: digest}) which vector each concept's name stood for
  context (JSON)                   ids of the pairs whose answers are in the messages, oldest first
  normal_id, steered_id            its two answers; steered_id is NULL for an unsteered turn
  normal_concept_score, steered_concept_score, effects (JSON {concept: effect}), diverges_at (index of the
  first token that differs), seconds, tokens_per_second
  normal_indexed                   1 for the one pair under which a search finds a shared normal answer
  owner                            while status is running: the process that writes the row
answers        the texts: text, tokens (how many), token_ids (JSON), finish (end, length, interrupted,
               failed), perplexity, repetition (share of repeated 3-grams), gate and dial (JSON [[token, share]]:
               the index of each token from which on another share of the strength was applied, by the recipe's
               gates and by the user's keys). A sweep's pairs share one normal answer; deleting the last pair that
               uses an answer deletes the answer.
pair_concepts  one row for each concept and run of adjacent layers that a pair steered: concept,
               layer_first, layer_last, strength. Filters read it.
measures       further measures of a pair by name: pair_id, name, value.
pair_search    full-text index (FTS5) over prompt, normal and steered; its rowid is the pair's id.

`PRAGMA user_version` is the number of the last migration applied; `PRAGMA application_id` is APPLICATION_ID.
"""

from __future__ import annotations

from pathlib import Path

# "Ster" marks a SQLite file as this program's.
APPLICATION_ID = 0x53746572

_SCRIPTS = sorted(Path(__file__).with_name("sql").glob("*.sql"), key=lambda path: int(path.stem))
# Never change a released migration, not even its blanks: append a new one. A file's version is the number of migrations
# applied to it.
MIGRATIONS: tuple[str, ...] = tuple(path.read_text(encoding="utf-8") for path in _SCRIPTS)
