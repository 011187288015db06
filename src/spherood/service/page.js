"use strict";
// The page of the service. Text goes into text nodes only; nothing is asked of another host.

const at = (id) => document.getElementById(id);
const made = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const drawn = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

let bundles = [];
let asked = 0.05; // the rate
let threshold = { threshold: 0, by_class: {} };
const shown = []; // {row, draw}

const bundle = () => bundles.find((one) => one.name === at("bundle").value) || bundles[0];
const percent = (x) => `${+(100 * x).toPrecision(2)} %`;
const say = (text) => { at("state").textContent = text; };

// The slider is even in the logarithm of the rate, from what the held-out images can promise to one half.
const rate = () => {
  const [low, high] = [Math.log(bundle().least_rate), Math.log(0.5)];
  return +Math.exp(low + (high - low) * at("rate").value / 100).toPrecision(3);
};
const place = (value) => {
  const [low, high] = [Math.log(bundle().least_rate), Math.log(0.5)];
  return Math.round(100 * (Math.log(value) - low) / (high - low));
};

async function ask(path, options = {}) {
  const headers = at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {};
  const answer = await fetch(path, { ...options, headers });
  const found = await answer.json().catch(() => ({ error: `HTTP ${answer.status}` }));
  if (answer.status === 401) at("token-field").hidden = false;
  if (!answer.ok && !found.verdicts) throw new Error(found.error || `HTTP ${answer.status}`);
  return found;
}

function histogram(row) {
  const { edges, count } = bundle().held_out;
  const low = Math.min(edges[0], row.score), high = Math.max(edges[edges.length - 1], row.score, cut(row));
  const x = (value) => 2 + 296 * (value - low) / (high - low || 1);
  const most = Math.max(...count);
  const svg = drawn("svg", { viewBox: "0 0 300 70", role: "img", "aria-label": `Score ${row.score.toPrecision(4)}, threshold ${cut(row).toPrecision(4)}, on the histogram of held-out images` });
  count.forEach((n, i) => svg.append(drawn("rect", { class: "bar", x: x(edges[i]), y: 66 - 60 * n / most, width: Math.max(1, x(edges[i + 1]) - x(edges[i]) - 1), height: 60 * n / most })));
  svg.append(drawn("line", { class: "threshold", x1: x(cut(row)), x2: x(cut(row)), y1: 2, y2: 68 }));
  svg.append(drawn("line", { class: `score ${row.score > cut(row) ? "" : "id"}`, x1: x(row.score), x2: x(row.score), y1: 6, y2: 68 }));
  return svg;
}

const cut = (row) => threshold.by_class[row.nearest_class] ?? threshold.threshold;

function word(row) {
  if (row.score > cut(row)) return ["OOD", "ood"];
  return row.needs_review ? ["ID, but a person should look", "review"] : ["ID", "id"];
}

function card(row, picture) {
  const item = made("li");
  const draw = () => {
    item.replaceChildren();
    if (picture) item.append(made("img", { className: "shown", src: picture, alt: `The image ${row.image}` }));
    item.append(made("p", { className: "muted", textContent: row.image }));
    if (row.error) {
      item.append(made("p", { className: "error", textContent: row.error }));
      return;
    }
    const [text, kind] = word(row);
    item.append(made("p", { className: `verdict ${kind}`, textContent: text }), made("p", { textContent: row.reason }), histogram(row));
    const facts = made("dl");
    for (const [name, value] of [["p-value", row.p_value.toPrecision(2)], ["score", row.score.toPrecision(5)], ["threshold", cut(row).toPrecision(5)]])
      facts.append(made("dt", { textContent: name }), made("dd", { textContent: value }));
    item.append(facts);
    if (row.neighbours && row.neighbours.length) {
      const near = made("ul", { className: "near" });
      near.setAttribute("aria-label", "Nearest training images");
      for (const one of row.neighbours) {
        const entry = made("li");
        if (one.picture) entry.append(made("img", { src: one.picture, alt: "" }));
        entry.append(`${one.name} (${one.cosine.toFixed(2)})`);
        near.append(entry);
      }
      item.append(near);
    }
  };
  draw();
  return { item, draw };
}

async function judge(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (!images.length) return;
  say(`Judging ${images.length} image${images.length > 1 ? "s" : ""}…`);
  const form = new FormData();
  images.forEach((file) => form.append("images", file, file.name || "pasted"));
  form.append("bundle", bundle().name);
  try {
    const { verdicts } = await ask("v1/predict?pictures=1", { method: "POST", body: form });
    verdicts.forEach((row, i) => {
      const made_ = card(row, URL.createObjectURL(images[i]));
      shown.unshift(made_);
      at("verdicts").prepend(made_.item);
    });
    at("none").hidden = true;
    const ood = verdicts.filter((row) => !row.error && row.score > cut(row)).length;
    say(`${verdicts.length} judged, ${ood} OOD.`);
    await recent();
  } catch (error) {
    say(error.message);
  }
}

async function slide() {
  const value = asked;
  at("rate-value").textContent = percent(value);
  at("rate").setAttribute("aria-valuetext", percent(value));
  try {
    threshold = await ask(`v1/threshold?bundle=${encodeURIComponent(bundle().name)}&false_alarm_rate=${value}`);
    shown.forEach((one) => one.draw());
  } catch (error) {
    say(error.message);
  }
}

async function recent() {
  const found = await ask("v1/traffic").catch(() => null);
  at("traffic").hidden = !found;
  if (found) at("recent").replaceChildren(...found.most_ood.filter((row) => row.bundle === bundle().name).map((row) => card(row, row.picture).item));
}

async function choose() {
  const { promise, reads, refused } = bundle();
  const rateText = percent(promise.false_alarm_rate);
  at("promise").textContent = `With confidence ${promise.confidence}, at most ${rateText} of images like the ${promise.held_out.toLocaleString("en")} held-out ones raise a false alarm. How much OOD is caught is not promised.` + (refused ? ` A newer bundle on disk was refused: ${refused}` : "");
  at("drop").hidden = reads !== "images";
  asked = promise.false_alarm_rate;
  at("rate").value = place(asked);
  at("verdicts").replaceChildren();
  shown.length = 0;
  at("none").hidden = false;
  await slide();
  await recent();
}

async function begin() {
  try {
    bundles = await ask("v1/bundles");
    at("bundle").replaceChildren(...bundles.map((one) => made("option", { value: one.name, textContent: one.name })));
    say("");
    await choose();
  } catch (error) {
    say(error.message);
  }
}

let waiting;
at("rate").addEventListener("input", () => { asked = rate(); clearTimeout(waiting); waiting = setTimeout(slide, 60); });
at("bundle").addEventListener("change", choose);
at("token-field").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
at("refresh").addEventListener("click", recent);
at("files").addEventListener("change", (event) => { judge(event.target.files); event.target.value = ""; });
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") judge(event.dataTransfer.files);
  });
document.addEventListener("paste", (event) => judge(event.clipboardData.files));
begin();
