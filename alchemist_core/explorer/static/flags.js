// Keys: they press the buttons of forms, which work without this script. A person can switch them off (WCAG 2.1.4).
"use strict";

(() => {
  const tiles = [...document.querySelectorAll("[data-sample]")];
  // Buttons that name their own key.
  const keyed = new Map([...document.querySelectorAll("button[data-key]")].map((button) => [button.dataset.key, button]));
  if (!tiles.length && !keyed.size) return;
  const OFF = "alchemist-keys-off";
  const stored = (change) => { try { return change(window.localStorage); } catch { return null; } };
  let isOn = stored((storage) => storage.getItem(OFF)) === null;

  const help = document.createElement("dialog");
  help.className = "keys";
  help.setAttribute("aria-label", "Keys");
  const lines = keyed.size ? [...keyed].map(([key, button]) => [key, button.textContent.replace(` (${key})`, "")]) : [
    ["1 2 3 4", "flag as good, bad, wrong caption, unsafe; again: undo. If samples are selected: all of them"],
    ["x", "select the sample, or not"], ["j k, arrows", "move"], ["u", "undo the last flag of the sample"],
  ];
  lines.push(["?", "show these keys"]);
  const list = document.createElement("dl");
  for (const [keys, meaning] of lines) {
    const term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = keys;
    text.textContent = meaning;
    list.append(term, text);
  }
  const choice = document.createElement("label"), box = document.createElement("input"), close = document.createElement("button");
  box.type = "checkbox";
  box.checked = isOn;
  box.addEventListener("change", () => {
    isOn = box.checked;
    stored((storage) => (isOn ? storage.removeItem(OFF) : storage.setItem(OFF, "1")));
  });
  choice.append(box, " Use these keys");
  close.textContent = "Close";
  close.addEventListener("click", () => help.close());
  help.append(list, choice, close);
  document.body.append(help);

  for (const note of document.querySelectorAll(".flag-many .note, .keys-note")) {
    const show = document.createElement("button");
    show.type = "button";
    show.textContent = "Keys";
    show.addEventListener("click", () => help.showModal());
    note.append(" ", show);
  }

  let at = tiles.findIndex((tile) => `#${tile.id}` === window.location.hash);
  const mark = (to) => {
    at = Math.max(0, Math.min(tiles.length - 1, to));
    tiles.forEach((tile, index) => tile.classList.toggle("current", index === at));
    const target = tiles[at].querySelector("a.picture") || tiles[at].querySelector("button");
    target.focus();
  };
  if (at >= 0) mark(at);
  for (const [index, tile] of tiles.entries()) {
    tile.addEventListener("focusin", () => {
      at = index;
      tiles.forEach((other) => other.classList.toggle("current", other === tile));
    });
  }

  const press = (number) => {
    const tile = tiles[Math.max(at, 0)], form = tile.closest("form");
    const many = form.querySelector("input[name^='sample-']:checked") && form.querySelectorAll(".flag-many button[name='label']");
    const buttons = many || tile.querySelectorAll("button[name='one']");
    if (buttons[number]) buttons[number].click();
  };
  const actions = {
    j: () => mark(at + 1), ArrowRight: () => mark(at + 1), k: () => mark(at - 1), ArrowLeft: () => mark(at - 1),
    1: () => press(0), 2: () => press(1), 3: () => press(2), 4: () => press(3),
    x: () => { const box = tiles[Math.max(at, 0)].querySelector("input[type='checkbox']"); if (box) box.click(); },
    u: () => { const set = tiles[Math.max(at, 0)].querySelectorAll("button[aria-pressed='true']"); if (set.length) set[set.length - 1].click(); },
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input:not([type='checkbox']), select, textarea, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isOn && event.key === "?") help.showModal();
    else if (isOn && keyed.has(event.key)) keyed.get(event.key).click();
    else if (isOn && tiles.length && Object.hasOwn(actions, event.key)) actions[event.key]();
    else return;
    event.preventDefault();
  });
})();
