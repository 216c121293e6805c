// The table of all cases: only the visible rows are elements.

const ROW_HEIGHT = 32;  // pixels, as in page.css

class Cases {
  constructor({tables, facts}) {
    this.table = tables.cases;
    this.accuracy = tables.accuracy;
    this.facts = facts.accuracy;
    this.commands = tables.commands;
    this.columns = facts.columns;
    this.count = this.table.c0.rows;
    this.order = Uint32Array.from({length: this.count}, (_, i) => i);
    this.sorted = this.longestFirst();
    this.wanted = {words: "", menus: {}};
    this.widest();
  }

  // The numbers of a column of the table by its title; undefined if there are none.
  columnOf(title) {
    return this.table[`c${this.columns.findIndex(it => it.title === title && it.show)}`];
  }

  longestFirst() {
    return {column: this.columns.findIndex(it => it.title === "length"), up: false};
  }

  show(row, number) {
    const column = this.columns[number], at = end => { const c = this.table[`c${number}${end}`]; return c ? cell(c, row) : null; };
    return column.show ? withInterval(column.show, at(""), at("_low"), at("_high")) : String(at(""));
  }

  // The width of each column in letters, from its longest word or from a sample of its numbers.
  widest() {
    this.widths = this.columns.map((column, number) => {
      const words = this.table[`c${number}`].words, step = Math.ceil(this.count / 300);
      const found = words ?? Array.from({length: Math.ceil(this.count / step)}, (_, i) => this.show(i * step, number));
      return Math.min(44, Math.max(column.title.length + 3, ...found.slice(0, 5000).map(word => word.length)) + 2);
    });
  }

  // The rows that contain all words and have the chosen value of each menu, in the order of the sorted column.
  filter() {
    const tests = Object.entries(this.wanted.menus).filter(([, value]) => value !== "").map(([number, value]) => {
      const {words, values} = this.table[`c${number}`], code = words.indexOf(value);
      return row => values[row] === code;
    });
    const searched = [...this.columns.keys()].map(number => this.table[`c${number}`]).filter(it => it.words).concat(this.commands.reason);
    for (const word of this.wanted.words.toLowerCase().split(/\s+/).filter(Boolean)) {
      const hits = searched.map(it => ({values: it.values, has: it.words.map(text => text.toLowerCase().includes(word))})).filter(it => it.has.some(Boolean));
      tests.push(row => hits.some(it => it.has[it.values[row]]));
    }
    const kept = new Uint32Array(this.count);
    let shown = 0;
    for (const row of this.sortedRows()) if (tests.every(test => test(row))) kept[shown++] = row;
    this.order = kept.slice(0, shown);
  }

  sortedRows() {
    const {column, up} = this.sorted, rows = Uint32Array.from({length: this.count}, (_, i) => i);
    if (column < 0) return rows;
    const {values, words} = this.table[`c${column}`], key = new Float64Array(this.count);
    const collator = new Intl.Collator("en", {numeric: true}), places = [];
    words?.map((word, code) => [word, code]).sort(([a], [b]) => (a === "") - (b === "") || collator.compare(a, b) * (up ? 1 : -1)).forEach(([, code], place) => { places[code] = place; });
    for (let row = 0; row < this.count; row++) {
      const value = values[row];
      key[row] = words ? places[value] : Number.isNaN(value) ? Infinity : up ? value : -value;
    }
    return rows.sort((a, b) => key[a] - key[b] || a - b);
  }

  // The rows of the current order as CSV; a text that a spreadsheet takes for a formula gets an apostrophe.
  csv() {
    const heads = this.columns.flatMap((column, number) => ["", "_low", "_high"].filter(end => this.table[`c${number}${end}`]).map(end => [column.title + end.replace("_", " "), this.table[`c${number}${end}`]]));
    const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const written = (column, row) => { const value = cell(column, row); return value === null ? "" : column.words ? quoted(value.replace(/^(?=[=+\-@\t\r])/, "'")) : String(value); };
    const lines = [heads.map(([title]) => quoted(title)).join(",")];
    for (const row of this.order) lines.push(heads.map(([, column]) => written(column, row)).join(","));
    return lines.join("\n") + "\n";
  }

  open(page) {
    this.page = page;
    this.box = byId("cases");
    this.body = element("tbody");
    this.heads = this.columns.map((column, number) => element("th", {scope: "col", "aria-sort": "none", style: `width:${this.widths[number]}ch`}, element("button", {onclick: () => this.sort(number)}, column.title)));
    this.grid = element("table", {class: "cases", "aria-rowcount": this.count}, element("thead", {}, element("tr", {}, element("th", {scope: "col", class: "more"}, element("span", {class: "unseen"}, "details")), this.heads)), this.body);
    this.box.replaceChildren(this.grid);
    this.box.addEventListener("scroll", () => this.render());
    new ResizeObserver(() => this.render()).observe(this.box);
    byId("words").addEventListener("input", event => { this.wanted.words = event.target.value; this.refresh(); });
    byId("menus").replaceChildren(...this.columns.flatMap((column, number) => column.choices.length < 2 ? [] : element("label", {}, column.title, element("select", {"data-column": number, onchange: event => { this.wanted.menus[number] = event.target.value; this.refresh(); }},
      element("option", {value: ""}, "all"), column.choices.map(it => element("option", {value: it}, it))))));
    byId("download").addEventListener("click", () => {
      const link = element("a", {href: URL.createObjectURL(new Blob([this.csv()], {type: "text/csv"})), download: "shown_cases.csv"});
      link.click();
      URL.revokeObjectURL(link.href);
    });
    this.refresh();
  }

  sort(column) {
    this.sorted = {column, up: this.sorted.column === column ? !this.sorted.up : true};
    this.refresh();
  }

  refresh() {
    const {column, up} = this.sorted;
    this.heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : up ? "ascending" : "descending"));
    this.filter();
    byId("shown").textContent = `${this.order.length} of ${this.count} rows`;
    this.box.scrollTop = 0;
    this.first = -1;
    this.render();
    this.page.remember();
  }

  render() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - 8), count = Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 16;
    if (first === this.first && count === this.rendered) return;
    [this.first, this.rendered] = [first, count];
    const rows = [...this.order.slice(first, first + count)];
    const status = this.columns.findIndex(it => it.title === "status");
    const space = count => element("tr", {"aria-hidden": "true", style: `height:${Math.max(0, count) * ROW_HEIGHT}px`});
    this.body.replaceChildren(space(first), ...rows.map((row, i) => element("tr", {"aria-rowindex": first + i + 2, class: this.show(row, status) === "ok" ? null : "failed"},
      element("td", {class: "more"}, element("button", {"aria-label": "details and command", onclick: () => this.detail(row)}, "▸")),
      this.columns.map((column, number) => { const text = this.show(row, number); return element("td", {title: text, class: column.show ? "number" : null}, text); }))), space(this.order.length - first - rows.length));
  }

  // The filters and the order as parts of an address, and back.
  address() {
    const {column, up} = this.sorted, menus = Object.entries(this.wanted.menus).filter(([, value]) => value !== "");
    return {...(this.wanted.words && {words: this.wanted.words}), ...(column >= 0 && {sort: (up ? "" : "-") + this.columns[column].title}),
      ...Object.fromEntries(menus.map(([number, value]) => [`where-${this.columns[number].title}`, value]))};
  }

  read(parts) {
    const [, down, title] = /^(-?)(.*)$/s.exec(parts.get("sort") ?? ""), at = this.columns.findIndex(it => it.title === title);
    this.sorted = at < 0 ? this.longestFirst() : {column: at, up: !down};
    this.wanted = {words: parts.get("words") ?? "", menus: {}};
    this.columns.forEach((column, number) => {
      const value = parts.get(`where-${column.title}`) ?? "";
      if (value === "" || column.choices.includes(value)) this.wanted.menus[number] = value;
    });
    byId("words").value = this.wanted.words;
    for (const menu of byId("menus").querySelectorAll("select")) menu.value = this.wanted.menus[menu.dataset.column] ?? "";
    this.refresh();
  }

  detail(row) {
    const command = commandOf(this.commands, row), of = name => cell(this.commands[name], row);
    byId("detail").replaceChildren(element("p", {}, element("b", {}, `${this.show(row, 0)} `), this.show(row, 1)), of("reason") ? element("p", {}, of("reason")) : "", of("inputs_detail") ? element("p", {class: "soft"}, `Inputs: ${of("inputs_detail")}`) : "",
      element("p", {class: "command"}, element("code", {tabindex: 0}, command), copyButton(command)));
    byId("detail").focus();
  }
}
