// The lessons beside the chat. Their texts become elements here, never markup.

import { api } from "./api.js";

const $ = (id) => document.getElementById(id);

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.append(...words(text));
  if (className) made.className = className;
  return made;
}

// A text whose parts in backticks are code.
function words(text) {
  return text.split(/`([^`]+)`/).map((part, place) => {
    if (place % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  });
}

// Paragraphs of one line each, lists of lines with "- ", and lines that keep their form: indented ones and tables.
function blocks(text) {
  const made = [];
  let kept = null; // the list or the picture that the next line may belong to
  for (const line of text.split("\n")) {
    const kind = line.startsWith("- ") ? "UL" : line.startsWith("    ") || line.startsWith("|") ? "PRE" : null;
    if (!line.trim()) {
      if (kept?.tagName === "PRE") kept.textContent += "\n";
      else kept = null;
      continue;
    }
    if (!kind) {
      kept = null;
      made.push(element("p", line));
      continue;
    }
    if (kept?.tagName !== kind) made.push((kept = document.createElement(kind)));
    if (kind === "UL") kept.append(element("li", line.slice(2)));
    else kept.textContent += `${line.replace(/^ {4}/, "")}\n`;
  }
  for (const picture of made.filter((block) => block.tagName === "PRE")) {
    picture.textContent = picture.textContent.trimEnd();
    picture.tabIndex = 0; // it may be wider than its place, and scrolls by keys then
  }
  return made;
}

function folded(title, ...content) {
  const details = document.createElement("details");
  details.append(element("summary", title), ...content);
  return details;
}

function step(given, number) {
  const section = document.createElement("section");
  section.append(element("h3", `${number}. ${given.title}`), ...blocks(given.text));
  if (given.do.length) {
    section.append(element("p", given.aim || "In the chat of the terminal, type:", "task"));
    const lines = element("pre");
    lines.tabIndex = 0;
    lines.textContent = given.do.join("\n");
    section.append(given.aim ? folded("A solution", lines) : lines);
  }
  if (given.question) {
    section.append(element("p", given.question, "task"));
    for (const choice of given.choices) {
      const verdict = { true: "Right. ", false: "Not so. ", null: "The terminal measures whether this is right. " };
      section.append(folded(choice.text, element("p", verdict[choice.right] + choice.because)));
    }
  }
  given.hints.forEach((hint, place) => section.append(folded(`Hint ${place + 1}`, element("p", hint))));
  section.append(...blocks(given.after));
  return section;
}

async function read(name) {
  const lesson = await (await api(`/v1/lessons/${encodeURIComponent(name)}`)).json();
  const about = element("p", `${lesson.about} ${lesson.minutes} minutes with the terminal: `, "facts");
  const command = document.createElement("code");
  command.textContent = `/lesson ${lesson.name}`;
  about.append(command);
  $("lesson-text").replaceChildren(about, ...lesson.steps.map((given, place) => step(given, place + 1)));
  $("lesson-text").scrollTop = 0;
}

async function open() {
  const button = $("lessons-button");
  const opens = $("lessons").hidden;
  $("lessons").hidden = !opens;
  document.body.classList.toggle("reading", opens);
  button.setAttribute("aria-expanded", String(opens));
  if (!opens || $("lesson").options.length) return;
  const found = await (await api("/v1/lessons")).json();
  for (const lesson of found.data) {
    const option = document.createElement("option");
    option.value = lesson.name;
    option.textContent = `${lesson.number}. ${lesson.title}`;
    $("lesson").append(option);
  }
  await read($("lesson").value);
}

// `say` shows what went wrong.
export function offerLessons(say) {
  $("lessons-button").addEventListener("click", () => open().catch((error) => say(error.message, true)));
  $("lesson").addEventListener("change", () => read($("lesson").value).catch((error) => say(error.message, true)));
}
