// Makes elements without HTML text, so that names in results are never markup.

const byId = id => document.getElementById(id);

// An element; attributes that start with `on` are listeners, and children are elements or text.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter(child => child !== null && child !== ""));
  return made;
}

const heading = (words, attributes = {}) => element("th", {scope: "col", ...attributes}, words);
const rowHeading = (...children) => element("th", {scope: "row"}, ...children);

// A table with one row of headings.
function tableOf(titles, rows, attributes = {}) {
  const head = element("thead", {}, element("tr", {}, titles.map(title => heading(title))));
  return element("table", attributes, head, element("tbody", {}, rows));
}

function foldOf(words, content) {
  return element("details", {class: "fold"}, element("summary", {}, words), content);
}

// The colour of a method beside its name.
function swatch(page, variant) {
  const style = `background:${page.color(variant)}`;
  return element("span", {class: "swatch", style, "aria-hidden": "true"});
}

function copyButton(text) {
  const copy = async event => {
    const button = event.currentTarget, code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);  // to copy by hand where the clipboard is closed
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "selected";
    }
  };
  return element("button", {onclick: copy}, "copy");
}

// The buttons that show one method alone.
function showChips(place, variants, page) {
  const toggle = name => page.set({alone: state.alone === name ? "" : name});
  const chip = name => element("button", {
    class: "chip", "aria-pressed": String(state.alone === name), onclick: () => toggle(name),
  }, swatch(page, name), name);
  byId(place).replaceChildren(...variants.map(chip));
}
