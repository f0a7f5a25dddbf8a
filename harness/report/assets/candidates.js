// Candidates: what each verifier picks among a prompt's first N, the whole pool behind it, and best-of-N in expectation.
const CARDS = 60; // drawn at a time
const decoded = new Map();

// the scores of a pool's candidates, row by row; exact, so that ties are those of the tables
function scoresOf(pool, verifier) {
  const entry = pool.verifiers.find((v) => v.id === verifier);
  if (!decoded.has(entry)) {
    decoded.set(entry, new Float64Array(Uint8Array.from(atob(entry.scores), (c) => c.charCodeAt(0)).buffer));
  }
  return decoded.get(entry);
}

// the first of the highest score among the first n, as harness/stats/curves.py
function pickOf(pool, verifier, row, n) {
  const scores = scoresOf(pool, verifier);
  const start = row * pool.size;
  let best = start;
  for (let cell = start + 1; cell < start + n; cell++) if (scores[cell] > scores[best]) best = cell;
  return best;
}

// the probability that rank r (0 is best) of m wins a random n-subset, as harness/stats/expected.py
function winProbabilities(m, n) {
  const found = new Array(m).fill(0);
  let p = n / m;
  for (let rank = 1; rank <= m - n + 1; rank++) {
    found[rank - 1] = p;
    p *= m > rank ? (m - rank - n + 1) / (m - rank) : 0;
  }
  return found;
}

// the share of n-subsets that each candidate of a row wins; candidates of equal score share theirs
function sharesOf(pool, verifier, row, n) {
  const start = row * pool.size;
  const scores = scoresOf(pool, verifier).subarray(start, start + pool.size);
  const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a]);
  const wins = winProbabilities(pool.size, n);
  const shares = new Array(pool.size);
  for (let from = 0; from < pool.size; ) {
    let to = from;
    let sum = 0;
    while (to < pool.size && scores[order[to]] === scores[order[from]]) sum += wins[to++];
    for (let k = from; k < to; k++) shares[order[k]] = sum / (to - from);
    from = to;
  }
  return shares;
}

const isRight = (pool, cell) => pool.right[cell] === "1";

function expectedOf(pool, verifier, row, n) {
  return sharesOf(pool, verifier, row, n).reduce((sum, p, i) => sum + (isRight(pool, row * pool.size + i) ? p : 0), 0);
}

function picture(pool, cell, label) {
  const place = pool.pictures[cell];
  if (place === undefined) return null;
  if (place < 0) return make("p", { class: "lost" }, "This picture is damaged or gone.");
  return make("img", { src: data.pictures[place], alt: label });
}

const mark = (right) => make("span", { class: "mark" }, right ? "✓ right" : "✗ wrong");
const signed = (score) => (Number(score.toFixed(3)) < 0 ? "" : "+") + text(score, 3);

// one candidate of a prompt's whole pool
function candidate(pool, verifier, cell, share, n) {
  const index = cell % pool.size;
  const right = isRight(pool, cell);
  const parts = [
    picture(pool, cell, `candidate ${index}`) ?? "",
    make("p", {}, `#${index} `, mark(right), ` · ${signed(scoresOf(pool, verifier)[cell])}`),
    make("p", { class: "note" }, `wins ${(100 * share).toFixed(1)}% of draws of ${n}`),
  ];
  if (!right) parts.push(make("p", { class: "note" }, pool.reasons[pool.why[cell]]));
  return make("li", { class: `card ${right ? "right" : "wrong"}` }, ...parts);
}

function wholePool(pool, verifier, row, n) {
  const list = make("ul", { class: "pool" });
  const details = make("details", {}, make("summary", {}, `all ${pool.size} candidates`), list);
  details.addEventListener("toggle", () => {
    if (!details.open || list.children.length) return;
    const shares = sharesOf(pool, verifier, row, n);
    list.append(...shares.map((share, i) => candidate(pool, verifier, row * pool.size + i, share, n)));
  });
  return details;
}

function card({ pool, verifier, row, cell, n, right, prompt, label }) {
  const [, seed] = pool.rows[row];
  const caption = pool.verifiers.find((v) => v.id === verifier).captions[cell];
  const several = data.pools.length > 1 ? `${pool.name} · ` : "";
  const expected = 100 * expectedOf(pool, verifier, row, n);
  const about = make("p", { class: "note" }, `${several}${taskName(prompt.tag)} · seed ${seed} · #${cell % pool.size} of the first ${n}`);
  const reason = pool.reasons[pool.why[cell]];
  if (reason) about.append(make("br"), reason);
  const parts = [
    picture(pool, cell, prompt.prompt) ?? "",
    make("p", { class: "prompt" }, prompt.prompt),
    make("p", {}, mark(right), ` · ${label} · ${signed(scoresOf(pool, verifier)[cell])}`),
    about,
    make("p", { class: "note" }, `right in ${expected.toFixed(1)}% of all draws of ${n}`),
  ];
  if (caption) parts.push(make("p", { class: "note" }, `after alignment it says: “${caption}”`));
  parts.push(wholePool(pool, verifier, row, n));
  const item = make("li", { class: `card ${right ? "right" : "wrong"}` }, ...parts);
  Object.assign(item.dataset, { task: prompt.tag, verifier, verdict: right ? "right" : "wrong" });
  return item;
}

const allPicks = { found: [], drawn: 0 };

function hasPicture(pool, row) {
  pool.pictured ??= new Set(Object.keys(pool.pictures).map((cell) => Math.floor(cell / pool.size)));
  return pool.pictured.has(row);
}

// the picks of every verifier at the chosen N
function picks(wanted) {
  const found = [];
  data.pools.forEach((pool, place) => {
    const n = Math.min(wanted.n, pool.size);
    pool.rows.forEach(([prompt], row) => {
      if (wanted.kept && !hasPicture(pool, row)) return;
      for (const { id, label } of pool.verifiers) {
        const cell = pickOf(pool, id, row, n);
        found.push({ pool, place: String(place), verifier: id, label, row, cell, n, right: isRight(pool, cell), prompt: data.prompts[prompt], order: prompt });
      }
    });
  });
  return found.sort((a, b) => a.order - b.order);
}

function wantedPicks() {
  const value = (id) => by(id).value;
  const n = Math.floor(Number(value("f-n")));
  by("f-n").setAttribute("aria-invalid", String(!(n >= 1)));
  return {
    pool: value("f-pool"), verifier: value("f-verifier"), n: n >= 1 ? n : 1, kept: value("f-kept"),
    task: value("f-task"), verdict: value("f-verdict"), words: value("f-prompt").toLowerCase().split(/\s+/).filter(Boolean),
  };
}

function drawCards() {
  const next = allPicks.found.slice(allPicks.drawn, allPicks.drawn + CARDS);
  by("cards").append(...next.map(card));
  allPicks.drawn += next.length;
  const { found, drawn, of } = allPicks;
  by("f-more").hidden = drawn === found.length;
  by("f-count").textContent = drawn === found.length
    ? `${drawn} of ${of} shown` : `${drawn} of ${found.length} shown, out of ${of}`;
}

// what the number means that these cards are behind
function explain(wanted, found) {
  const line = data.pipelines.find((p) => String(p.pool) === wanted.pool && p.verifier === wanted.verifier)
    ?? (data.pipelines.filter((p) => p.verifier === wanted.verifier).length === 1
      ? data.pipelines.find((p) => p.verifier === wanted.verifier) : undefined);
  const right = found.filter((pick) => pick.right).length;
  const share = found.length ? ` (${(100 * right / found.length).toFixed(1)}%)` : "";
  const here = `${right} of these ${found.length} picks are right${share}`;
  if (!line) return `${here}.`;
  const curve = line.tasks[wanted.task || "overall"];
  const n = Math.min(wanted.n, curve.accuracy.length);
  return `${line.name}, best of ${n}${wanted.task ? `, ${taskName(wanted.task)}` : ""}: ${text(curve.accuracy[n - 1], 1)}% expected over all draws of ${n} candidates; ${here}.`;
}

function showPicks() {
  const wanted = wantedPicks();
  const all = picks(wanted);
  const before = all.filter((pick) => (!wanted.pool || pick.place === wanted.pool)
    && (!wanted.verifier || pick.verifier === wanted.verifier) && (!wanted.task || pick.prompt.tag === wanted.task)
    && wanted.words.every((word) => pick.prompt.prompt.toLowerCase().includes(word)));
  const found = before.filter((pick) => !wanted.verdict || pick.right === (wanted.verdict === "right"));
  Object.assign(allPicks, { found, drawn: 0, of: all.length });
  by("cards").replaceChildren();
  by("f-said").textContent = explain(wanted, before);
  drawCards();
}

// show the candidates behind a number: those of a pipeline at an N, of one task or all
function explore({ pool, verifier, n, task = "", words = "" }) {
  const chosen = { "f-pool": data.judged.length > 1 ? pool : "", "f-verifier": verifier, "f-n": n, "f-task": task, "f-verdict": "", "f-prompt": words, "f-kept": "" };
  for (const [id, value] of Object.entries(chosen)) by(id).value = value;
  showPicks();
  by("gallery").scrollIntoView();
  by("h-gallery").focus({ preventScroll: true });
}

function startCandidates() {
  const labels = new Map(data.pools.flatMap((pool) => pool.verifiers.map(({ id, label }) => [id, label])));
  for (const [id, label] of [...labels].sort()) by("f-verifier").append(make("option", { value: id }, label));
  for (const place of data.judged) by("f-pool").append(make("option", { value: place }, data.pools[place].name));
  by("f-pool-label").hidden = data.judged.length < 2;
  by("f-n").value = Math.min(data.galleryN, Math.max(...data.judged.map((place) => data.pools[place].size)));
  if (!data.pictures.length && !data.lost) by("f-kept").value = "";
  by("filters").addEventListener("input", showPicks);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("f-more").addEventListener("click", drawCards);
  showPicks();
}

// the accuracies of a table's rows are behind a click too
function linkTables() {
  for (const [id, { columns, rows }] of Object.entries(data.links)) {
    const lines = states.get(by(id).querySelector("table")).rows;
    rows.forEach((link, i) => {
      if (!link) return;
      const [pool, verifier, n] = link;
      columns.forEach((tag, column) => {
        const cell = lines[i].cells[column];
        if (tag === null || !cell.textContent) return;
        const task = tag in data.taskNames ? tag : "";
        const press = button("", `Candidates behind ${cell.textContent}`, () => explore({ pool, verifier, n, task }));
        press.append(...cell.childNodes);
        cell.append(press);
      });
    });
  }
}

if (by("filters")) {
  startCandidates();
  linkTables();
}
