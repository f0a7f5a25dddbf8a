// What all parts of the page share. The files of this folder are one script: no text becomes HTML anywhere.
const data = JSON.parse(document.getElementById("data").textContent);
const by = (id) => document.getElementById(id);
const text = (value, digits) => (value === null || value === undefined ? "" : (Number(value.toFixed(digits)) + 0).toFixed(digits)); // no "-0.0"
const short = (value) => String(Number(value.toPrecision(4)));
const taskName = (tag) => data.taskNames[tag] ?? tag;

// an element with attributes, and with texts and elements in it
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function button(said, label, act) {
  const element = make("button", { type: "button", class: "link", "aria-label": label, title: label }, said);
  element.addEventListener("click", act);
  return element;
}

// save a text of a kind, such as text/csv, as a file
function download(name, content, kind) {
  const url = URL.createObjectURL(new Blob([content], { type: `${kind};charset=utf-8` }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
