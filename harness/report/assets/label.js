// The labelling page: one picture at a time; each labeller's answers are kept in the browser by sample and name.
const KEYS = { y: "yes", n: "no", u: "unsure" };
const items = data.items;
const prefix = `vhsbench ${data.sample}`;
let answers = new Map(); // by place: what was answered, and when
let place = 0;
let kept = true; // whether this browser keeps anything

function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function store(key, value) {
  try {
    localStorage.setItem(key, value);
    kept = true;
  } catch {
    kept = false;
  }
}

// characters that a name cannot have: of control, and of the direction of writing
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const labeller = () => by("name").value.replace(INVISIBLE, "").trim();
const answersKey = () => `${prefix} by ${labeller()}`;

function loadAnswers() {
  const known = (entry) => Number.isInteger(entry?.[0]) && entry[0] < items.length && ["yes", "no", "unsure"].includes(entry[1]);
  try {
    answers = new Map(JSON.parse(stored(answersKey()) ?? "[]").filter(known).map(([at, ...said]) => [at, said]));
  } catch {
    answers = new Map();
  }
}

function firstOpen() {
  const open = items.findIndex((_, at) => !answers.has(at));
  return open < 0 ? items.length : open;
}

function show() {
  const item = items[place];
  by("card").hidden = !item;
  by("end").hidden = Boolean(item);
  by("done").value = answers.size;
  by("count").textContent = `${answers.size} of ${items.length} answered`;
  by("download").disabled = answers.size === 0;
  if (!item) return;
  by("place").textContent = `${place + 1} of ${items.length}`;
  by("prompt").textContent = item.prompt;
  by("picture").src = item.picture;
  by("picture").alt = `Picture ${place + 1}`;
  by("back").disabled = place === 0;
  for (const each of document.querySelectorAll("[data-answer]")) {
    each.setAttribute("aria-pressed", String(answers.get(place)?.[0] === each.dataset.answer));
  }
}

function say(text) {
  by("said").textContent = text;
}

function named() {
  if (labeller()) return true;
  say("Enter your name first.");
  by("name").focus();
  return false;
}

function answer(said) {
  if (place >= items.length || !named()) return;
  answers.set(place, [said, new Date().toISOString()]);
  store(answersKey(), JSON.stringify([...answers].map(([at, given]) => [at, ...given])));
  store(prefix, labeller());
  say(kept ? "" : "This browser keeps nothing: download your answers before you close the page.");
  place = firstOpen();
  show();
}

function go(to) {
  place = Math.max(0, Math.min(to, firstOpen()));
  show();
}

function lines() {
  return [...answers.entries()].sort(([a], [b]) => a - b).map(([at, [said, when]]) =>
    JSON.stringify({ sample: data.sample, place: at, labeller: labeller(), answer: said, at: when }) + "\n").join("");
}

by("name").addEventListener("input", () => {
  say("");
  loadAnswers();
  go(firstOpen());
});
by("name").addEventListener("keydown", (event) => {
  if (event.key === "Enter") by("name").blur();
});
for (const each of document.querySelectorAll("[data-answer]")) {
  each.addEventListener("click", () => answer(each.dataset.answer));
}
by("back").addEventListener("click", () => go(place - 1));
by("download").addEventListener("click", () => {
  if (named()) download(`answers-${labeller().replace(/[^A-Za-z0-9]+/g, "-")}-${data.sample}.jsonl`, lines(), "application/jsonl");
});
by("picture").addEventListener("load", () => {
  by("picture").classList.toggle("small", by("picture").naturalWidth <= 256);
});
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target === by("name")) return;
  const key = event.key.toLowerCase();
  if (KEYS[key]) answer(KEYS[key]);
  else if (key === "b" || event.key === "ArrowLeft") go(place - 1);
  else if (event.key === "ArrowRight") go(place + 1);
  else return;
  event.preventDefault(); // or it is typed into the name, where that is now asked for
});

by("name").value = stored(prefix) ?? "";
loadAnswers();
go(firstOpen());
