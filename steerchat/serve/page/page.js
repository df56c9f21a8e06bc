// The page: everything that it does goes through the public API.

import { api, enter, events, inClass } from "./api.js";
import { LayerChart, cost, meter, signed } from "./charts.js";
import { followClass } from "./classroom.js";
import { offerLessons } from "./lessons.js";

const $ = (id) => document.getElementById(id);
let model = "";
let concepts = new Map();
let running = null; // what stops the request at hand
let listed = 8; // of the last answers

// One thing at a time

function say(text, error = false) {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}

async function work(text, run) {
  if (!$("prompt").value.trim()) {
    say("the prompt is empty", true);
    $("prompt").focus();
    return;
  }
  running?.abort();
  const stop = (running = new AbortController());
  for (const id of ["compare", "again", "sweep"]) $(id).disabled = true;
  $("stop").disabled = false;
  say(text);
  try {
    await run(stop.signal);
    if (running === stop) say("");
  } catch (error) {
    say(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
  } finally {
    for (const id of ["compare", "again", "sweep"]) $(id).disabled = false;
    $("stop").disabled = true;
    listPairs();
  }
}

function recipe() {
  const layer = $("layer").value;
  const layers = layer === "" ? concepts.get($("concept").value).layers : layer;
  return `${$("concept").value} ${layers} ${Number($("strength").value).toFixed(2)}`;
}

async function compare(signal) {
  const prompt = $("prompt").value;
  const steer = recipe();
  $("recipe").textContent = `Steered: ${steer}`;
  for (const id of ["normal", "steered"]) {
    $(id).textContent = "";
    $(id).setAttribute("aria-busy", "true");
  }
  $("result").hidden = true;
  const body = {
    model,
    steer,
    compare: true,
    stream: true,
    messages: [{ role: "user", content: prompt }],
    max_tokens: Number($("tokens").value),
    seed: Number($("seed").value),
    user: "page",
  };
  try {
    for await (const chunk of events("/v1/chat/completions", body, signal)) {
      for (const choice of chunk.choices) {
        $(choice.index ? "steered" : "normal").append(choice.delta.content ?? "");
      }
      if (chunk.steerchat) show(chunk.steerchat);
    }
  } finally {
    for (const id of ["normal", "steered"]) $(id).removeAttribute("aria-busy");
  }
}

function show(found) {
  $("recipe").textContent = `Steered: ${found.recipe}`;
  if (found.effect === null || found.effect === undefined) return;
  $("verdict").textContent = found.verdict ?? "no chance band was measured for this model";
  $("meter").replaceChildren(meter(found.effect, found.chance));
  const band = found.chance ? `, random pushes ${signed(found.chance[0])} to ${signed(found.chance[1])}` : "";
  const price = found.cost === null ? "" : `; cost ${cost(found.cost)}`;
  $("figures").textContent = `effect ${signed(found.effect)}${band}${price}`;
  $("result").hidden = false;
}

async function sweep(signal) {
  const concept = $("concept").value;
  const strength = Number($("strength").value);
  $("layers").hidden = false;
  $("layers-title").textContent = `Every layer: ${concept} x ${strength}`;
  $("chosen").textContent = "";
  const chart = new LayerChart($("chart"), Number($("layer").dataset.layers), (row) => {
    $("layer").value = String(row.layer);
    $("chosen").textContent = `${LayerChart.describe(row)}. Compare steers there now.`;
  });
  const body = { prompt: $("prompt").value, concept, strength, seed: Number($("seed").value), user: "page" };
  for await (const row of events("/v1/sweeps", body, signal)) {
    if (row.chart) {
      $("chosen").textContent = chart.finish(row.chart);
      continue;
    }
    chart.add(row);
    say(`layer ${row.layer + 1} of ${$("layer").dataset.layers}`);
  }
}

// What there is

function option(value, text) {
  const element = document.createElement("option");
  element.value = value;
  element.textContent = text;
  return element;
}

function chooseConcept() {
  const concept = concepts.get($("concept").value);
  $("about").textContent = concept.description;
  $("layer").value = "";
  $("layer").options[0].textContent = `${concept.layers} (${concept.tuned ? "measured best" : "default"})`;
  $("strength").value = concept.strength;
  showStrength();
}

function showStrength() {
  $("strength-value").textContent = Number($("strength").value).toFixed(2);
}

async function load() {
  await enter();
  if (inClass()) listed = (await followClass(listPairs)) === "teacher" ? 40 : 8;
  const found = await (await api("/v1/concepts")).json();
  model = found.model;
  $("model").textContent = `${found.model}, ${found.layers} layers`;
  concepts = new Map(found.data.filter((concept) => !concept.error).map((concept) => [concept.id, concept]));
  $("concept").replaceChildren(...[...concepts.keys()].map((name) => option(name, name)));
  const layers = Array.from({ length: found.layers }, (_, layer) => option(layer, layer));
  $("layer").replaceChildren(option("", ""), ...layers);
  $("layer").dataset.layers = found.layers;
  if (concepts.has("happy")) $("concept").value = "happy";
  chooseConcept();
  await listPairs();
}

async function listPairs() {
  const found = await (await api(`/v1/pairs?limit=${listed}`)).json();
  const known = new Map([...$("pairs").children].map((element) => [element.dataset.known, element]));
  const elements = found.data.map((pair) => known.get(`${pair.id} ${pair.status}`) ?? pairElement(pair));
  for (const old of known.values()) if (!elements.includes(old)) old.remove();
  elements.forEach((element, place) => {
    // What is there already stays in its place, open or with the focus as it is.
    if ($("pairs").children[place] !== element) $("pairs").insertBefore(element, $("pairs").children[place] ?? null);
  });
}

function pairElement(pair) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  details.className = "pair";
  details.dataset.known = `${pair.id} ${pair.status}`;
  const effect = pair.effect === null ? "" : `, effect ${signed(pair.effect)}`;
  const who = inClass() && pair.client ? `${pair.client}: ` : "";
  summary.textContent = `${pair.id}: ${who}${pair.prompt} \u2014 ${pair.recipe}${effect}`;
  details.append(summary);
  const facts = document.createElement("p");
  facts.className = "facts";
  facts.textContent = `seed ${pair.seed}${pair.client ? `, by ${pair.client}` : ""}${pair.verdict ? `, ${pair.verdict}` : ""}`;
  details.append(facts);
  for (const [name, text] of [["Normal", pair.normal], ["Steered", pair.steered]]) {
    if (!text) continue;
    const heading = document.createElement("strong");
    const paragraph = document.createElement("p");
    heading.textContent = name;
    paragraph.textContent = text;
    details.append(heading, paragraph);
  }
  return details;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  work("both answers are on their way", compare);
});
$("again").addEventListener("click", () => {
  $("seed").value = Number($("seed").value) + 1;
  $("ask").requestSubmit();
});
$("sweep").addEventListener("click", () => work("the first layers are on their way", sweep));
$("stop").addEventListener("click", () => running?.abort());
$("concept").addEventListener("change", chooseConcept);
$("strength").addEventListener("input", showStrength);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
offerLessons(say);
load().catch((error) => say(error.message, true));
