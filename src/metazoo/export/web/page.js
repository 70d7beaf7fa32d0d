// The page: classes are learned from pictures on the left, and pictures recognised on the right.

import { countOf, leaveOneOut, meanOf, probabilitiesOf, sumOf, unit } from "./means.js";
import { pictureOf } from "./pixels.js";
import { loadEmbedder } from "./embedder.js";

const MOST_BARS = 5;
const FORMAT = "metazoo-class-means";
const element = (id) => document.getElementById(id);
const model = JSON.parse(element("data").textContent);
const cards = new Map();
let classes = model.classes.map(({ name, mean, images }) => newClass(name, { mean, images }));
let former = [];
let results = [];
let directions = [];
let embed = null;
let stream = null;
let isSaved = true;

function newClass(name, start = null) {
  return { id: Symbol(name), name, start, examples: [] };
}

function tell(text) {
  element("status").textContent = text;
}

// ---- classes

function change(next, text = "") {
  former.push(classes);
  isSaved = false;
  show(next);
  tell(text);
}

function changeClass(id, changes, text) {
  change(classes.map((entry) => (entry.id === id ? { ...entry, ...changes } : entry)), text);
}

function show(next) {
  classes = next;
  const known = classes.filter((entry) => countOf(entry) > 0);
  directions = known.map((entry) => ({ name: entry.name, direction: unit(sumOf(entry)) }));
  for (const [id, card] of cards) {
    if (!classes.some((entry) => entry.id === id)) {
      card.remove();
      cards.delete(id);
    }
  }
  classes.forEach((entry, index) => {
    if (!cards.has(entry.id)) cards.set(entry.id, newCard(entry.id));
    const card = cards.get(entry.id);
    // Moved only where needed, since a moved element loses the focus.
    if (element("classes").children[index] !== card) element("classes").insertBefore(card, element("classes").children[index]);
    showCard(card, entry);
  });
  element("undo").disabled = former.length === 0;
  element("save").disabled = known.length === 0;
  element("no-classes").hidden = classes.length > 0;
  showAccuracy();
  results.forEach(showResult);
}

function newCard(id) {
  const card = element("class-card").content.firstElementChild.cloneNode(true);
  const part = (name) => card.querySelector(`[data-part=${name}]`);
  const entry = () => classes.find((one) => one.id === id);
  part("name").addEventListener("change", ({ target }) => rename(entry(), target));
  part("name").addEventListener("keydown", ({ key, target }) => key === "Enter" && target.blur());
  part("count").addEventListener("change", ({ target }) => {
    const images = Math.min(Math.max(Math.round(Number(target.value)) || 1, 1), 10_000);
    changeClass(id, { start: { ...entry().start, images } });
  });
  part("remove").addEventListener("click", () => {
    const { name } = entry();
    change(classes.filter((one) => one.id !== id), `Class ${name} is removed.`);
    element("add").focus();
  });
  part("frame").addEventListener("click", () => learn(id, [element("video")]));
  takeFiles(part("files"), card, (files) => learn(id, files));
  return card;
}

function showCard(card, entry) {
  const part = (name) => card.querySelector(`[data-part=${name}]`);
  const count = entry.examples.length;
  const own = count === 1 ? "1 picture" : `${count} pictures`;
  card.dataset.name = entry.name;
  part("name").value = entry.name;
  part("images").textContent = entry.start ? `mean${count ? ` and ${own}` : ""}` : own;
  part("start").hidden = entry.start === null;
  part("count").value = entry.start?.images ?? "";
  part("remove").setAttribute("aria-label", `Remove class ${entry.name}`);
  part("add").textContent = "Add pictures";
  part("files").setAttribute("aria-label", `Add pictures to class ${entry.name}`);
  part("frame").hidden = stream === null;
  part("frame").setAttribute("aria-label", `Take a picture for class ${entry.name}`);
  part("pictures").replaceChildren(...entry.examples.map((example) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = `Remove ${example.name}`;
    button.setAttribute("aria-label", button.title);
    button.append(example.thumbnail);
    button.addEventListener("click", () => {
      const examples = entry.examples.filter((other) => other !== example);
      changeClass(entry.id, { examples }, `${example.name} is removed.`);
      part("files").focus();
    });
    return button;
  }));
}

function rename(entry, field) {
  const name = field.value.trim();
  const isTaken = classes.some((other) => other.id !== entry.id && other.name === name);
  if (name && name !== entry.name && !isTaken) return changeClass(entry.id, { name });
  field.value = entry.name;
  return isTaken && tell(`There is a class ${name} already.`);
}

function showAccuracy() {
  const found = leaveOneOut(classes);
  const percent = found && Math.round((100 * found.right) / found.images);
  element("accuracy").textContent = found
    ? `Leave-one-out accuracy: ${percent} %. ${found.right} of ${found.images} pictures are recognised by a model that has learned from all others.`
    : "Leave-one-out accuracy is measured on the pictures added here, once there are two classes of at least two.";
}

// ---- pictures

// Call `use` for every picture that can be read; the others are named.
async function read(sources, use) {
  const bad = [];
  for (const [index, source] of sources.entries()) {
    if (sources.length > 1) tell(`Reading ${index + 1} of ${sources.length}`);
    const name = source.name ?? `Camera ${new Date().toLocaleTimeString()}`;
    try {
      const { pixels, thumbnail } = await pictureOf(source);
      thumbnail.setAttribute("role", "img");
      thumbnail.setAttribute("aria-label", name);
      use({ name, thumbnail, feature: await embed(pixels) });
    } catch (error) {
      const reason = error instanceof DOMException ? "is no picture that this browser reads" : (error.message ?? error);
      bad.push(`${name} ${reason}`);
    }
  }
  return bad.length === 0 ? "" : `Not read: ${bad.join("; ")}.`;
}

async function learn(id, sources) {
  const examples = [];
  const bad = await read(sources, (picture) => examples.push(picture));
  const entry = classes.find((one) => one.id === id);
  if (!entry || examples.length === 0) return tell(bad);
  const added = examples.length === 1 ? "1 picture is" : `${examples.length} pictures are`;
  return changeClass(id, { examples: [...entry.examples, ...examples] }, `${added} added to ${entry.name}. ${bad}`);
}

async function recognise(sources) {
  const bad = await read(sources, (picture) => {
    const item = element("result").content.firstElementChild.cloneNode(true);
    item.dataset.name = picture.name;
    item.querySelector("[data-part=picture]").append(picture.thumbnail);
    item.querySelector("[data-part=name]").textContent = picture.name;
    const result = { item, feature: picture.feature };
    results.push(result);
    element("results").prepend(item);
    element("clear").hidden = false;
    showResult(result);
  });
  const last = results.at(-1);
  tell(bad || (sources.length === 1 && last ? `${last.item.dataset.name}: ${last.item.dataset.class}` : ""));
}

function showResult({ item, feature }) {
  const bars = item.querySelector("[data-part=bars]");
  if (directions.length < 2) {
    item.dataset.class = "two classes are needed";
    bars.textContent = "Add pictures of at least two classes.";
    return;
  }
  const values = probabilitiesOf(feature, directions.map((one) => one.direction), model.scale);
  const ranked = values.map((value, index) => ({ value, name: directions[index].name })).sort((a, b) => b.value - a.value);
  item.dataset.class = ranked[0].name;
  bars.replaceChildren(...ranked.slice(0, MOST_BARS).map(({ value, name }) => {
    const bar = element("bar").content.firstElementChild.cloneNode(true);
    bar.dataset.name = name;
    bar.dataset.probability = value;
    bar.querySelector("[data-part=name]").textContent = name;
    bar.querySelector("[data-part=fill]").style.width = `${100 * value}%`;
    bar.querySelector("[data-part=percent]").textContent = `${(100 * value).toFixed(value < 0.995 ? 1 : 0)} %`;
    return bar;
  }));
}

// Files of a file dialog, or dropped on an area.
function takeFiles(field, area, use) {
  field.addEventListener("change", () => {
    const files = [...field.files];
    field.value = "";
    use(files);
  });
  area.addEventListener("dragover", () => area.classList.add("over"));
  for (const type of ["dragleave", "drop"]) area.addEventListener(type, () => area.classList.remove("over"));
  area.addEventListener("drop", ({ dataTransfer }) => embed && dataTransfer.files.length && use([...dataTransfer.files]));
}

// ---- camera

async function startCamera() {
  if (!navigator.mediaDevices) return tell("Browsers give a camera only to pages from a file or from https.");
  element("camera").disabled = true;
  let own;
  try {
    own = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return tell(`There is no camera to use (${error.message}).`);
  } finally {
    element("camera").disabled = false;
  }
  stream = own;
  own.getVideoTracks()[0].addEventListener("ended", () => stream === own && stopCamera());
  element("video").srcObject = own;
  showCamera();
  while (stream === own) {
    const begun = performance.now();
    try {
      await element("video").play();
      const feature = await embed((await pictureOf(element("video"))).pixels);
      if (stream === own) showResult({ item: element("live"), feature });
    } catch (error) {
      if (stream === own) tell(`The camera gives no picture (${error.message}).`);
    }
    // The page stays usable while a slow model runs.
    await new Promise((resume) => setTimeout(resume, Math.max(50, performance.now() - begun)));
  }
}

function stopCamera() {
  stream.getTracks().forEach((track) => track.stop());
  stream = null;
  showCamera();
}

function showCamera() {
  element("camera").textContent = stream ? "Stop camera" : "Start camera";
  element("camera-view").hidden = stream === null;
  for (const card of cards.values()) card.querySelector("[data-part=frame]").hidden = stream === null;
}

// ---- files of means

function save() {
  const known = classes.filter((entry) => countOf(entry) > 0);
  const content = {
    format: FORMAT,
    format_version: 1,
    embedder: model.embedder,
    classes: known.map((entry) => ({ name: entry.name, images: countOf(entry), mean: [...meanOf(entry)] })),
  };
  const url = URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: url, download: "class-means.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  isSaved = true;
}

async function open([file]) {
  try {
    const next = classesOf(JSON.parse(await file.text()));
    change(next, `${next.length} classes are opened.`);
    isSaved = true;
  } catch (error) {
    tell(`${file.name} ${error instanceof SyntaxError ? "is not a file of class means." : error.message}`);
  }
}

function classesOf(content) {
  if (content?.format !== FORMAT || content.format_version !== 1) throw new Error("is not a file of class means.");
  if (content.embedder !== model.embedder) throw new Error("belongs to another model.");
  const isSound = (one) =>
    typeof one?.name === "string" && one.name && Number.isInteger(one.images) && one.images > 0 &&
    Array.isArray(one.mean) && one.mean.length === model.features && one.mean.every(Number.isFinite);
  if (!Array.isArray(content.classes) || !content.classes.every(isSound)) throw new Error("is damaged.");
  const names = new Set(content.classes.map(({ name }) => name));
  if (names.size < content.classes.length) throw new Error("is damaged.");
  return content.classes.map(({ name, images, mean }) => newClass(name, { mean, images }));
}

// ---- start

element("add").addEventListener("click", () => {
  let number = classes.length + 1;
  while (classes.some(({ name }) => name === `class ${number}`)) number += 1;
  const added = newClass(`class ${number}`);
  change([...classes, added]);
  cards.get(added.id).querySelector("[data-part=name]").select();
});
element("undo").addEventListener("click", () => {
  isSaved = false;
  show(former.pop());
  tell("The last change is undone.");
});
element("save").addEventListener("click", save);
element("clear").addEventListener("click", () => {
  results = [];
  element("results").replaceChildren();
  element("clear").hidden = true;
});
element("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
takeFiles(element("open"), element("open"), open);
takeFiles(element("pictures"), element("recognise"), recognise);
for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
addEventListener("beforeunload", (event) => isSaved || event.preventDefault());
show(classes);
try {
  embed = await loadEmbedder();
  element("work").disabled = false;
  tell("Ready.");
} catch (error) {
  tell(`The model does not run in this browser: ${error.message ?? error}`);
}
document.body.dataset.state = embed ? "ready" : "failed";
