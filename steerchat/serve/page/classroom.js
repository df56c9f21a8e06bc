// A class: the teacher sees who is there and what they ask, and can pause them; a student sees whether they have to wait.

import { api, send } from "./api.js";

const $ = (id) => document.getElementById(id);
let isPaused = false;
const SECONDS = { teacher: 3, student: 5 };

// Looks at the class from now on. `looked` is called each time, so that the list of answers is new too.
export async function followClass(looked) {
  let facts = await look();
  const again = async () => {
    if (document.visibilityState !== "visible") return;
    facts = await look();
    await looked(facts.role);
  };
  const quietly = () => again().catch(() => {}); // the next look may succeed, and what people do themselves tells them
  setInterval(quietly, 1000 * SECONDS[facts.role]);
  document.addEventListener("visibilitychange", quietly);
  return facts.role;
}

async function look() {
  const facts = await (await api("/v1/class")).json();
  show(facts);
  return facts;
}

function show(facts) {
  isPaused = facts.paused;
  const teaches = facts.role === "teacher";
  $("class").hidden = !teaches;
  $("waiting").hidden = teaches || !facts.paused;
  $("who").textContent = teaches ? "teacher" : facts.name;
  if (!teaches) return;
  $("class-code").textContent = facts.code;
  $("pause").textContent = facts.paused ? "Let the class go on" : "Pause the class";
  $("class-about").textContent = facts.paused ? "The class is paused: only you can ask." : "";
  const known = facts.students.map((student) => `${student.name} ${student.asked}`).join("\n");
  if ($("students").dataset.known === known) return;
  $("students").dataset.known = known;
  $("students").replaceChildren(...facts.students.map(studentElement));
}

function studentElement(student) {
  const item = document.createElement("li");
  const remove = document.createElement("button");
  item.textContent = `${student.name}: ${student.asked} asked `;
  remove.type = "button";
  remove.textContent = "Remove";
  remove.setAttribute("aria-label", `Remove ${student.name} from the class`);
  remove.addEventListener("click", async () => {
    show(await (await api(`/v1/class/students/${encodeURIComponent(student.name)}`, { method: "DELETE" })).json());
  });
  item.append(remove);
  return item;
}

$("pause").addEventListener("click", async () => {
  show(await (await send("/v1/class/pause", { paused: !isPaused })).json());
});
