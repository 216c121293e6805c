// The table of all cases: only the visible rows are elements.

const ROW_HEIGHT = 32;  // pixels, as in page.css

class Cases extends CaseRows {
  open(page) {
    this.page = page;
    this.box = byId("cases");
    this.body = element("tbody");
    this.heads = this.columns.map((column, number) => heading(
      element("button", {onclick: () => this.sort(number)}, column.title),
      {"aria-sort": "none", style: `width:${this.widths[number]}ch`}));
    const more = heading(element("span", {class: "unseen"}, "details"), {class: "more"});
    const head = element("thead", {}, element("tr", {}, more, this.heads));
    const about = {class: "cases", "aria-rowcount": this.count};
    this.box.replaceChildren(element("table", about, head, this.body));
    this.box.addEventListener("scroll", () => this.render());
    new ResizeObserver(() => this.render()).observe(this.box);
    byId("words").addEventListener("input", event => {
      this.wanted.words = event.target.value;
      this.refresh();
    });
    const hasMenu = number => this.columns[number].choices.length > 1;
    const numbers = [...this.columns.keys()].filter(hasMenu);
    byId("menus").replaceChildren(...numbers.map(number => this.menu(number)));
    byId("download").addEventListener("click", () => this.download());
    this.refresh();
  }

  menu(number) {
    const {title, choices} = this.columns[number];
    const choose = event => {
      this.wanted.menus[number] = event.target.value;
      this.refresh();
    };
    const options = choices.map(it => element("option", {value: it}, it));
    const about = {"data-column": number, onchange: choose};
    return element("label", {}, title,
      element("select", about, element("option", {value: ""}, "all"), options));
  }

  download() {
    const file = URL.createObjectURL(new Blob([this.csv()], {type: "text/csv"}));
    element("a", {href: file, download: "shown_cases.csv"}).click();
    URL.revokeObjectURL(file);
  }

  sort(column) {
    this.sorted = {column, up: this.sorted.column === column ? !this.sorted.up : true};
    this.refresh();
  }

  refresh() {
    const {column, up} = this.sorted, direction = up ? "ascending" : "descending";
    for (const [i, head] of this.heads.entries()) {
      head.setAttribute("aria-sort", i === column ? direction : "none");
    }
    this.filter();
    byId("shown").textContent = `${this.order.length} of ${this.count} rows`;
    this.box.scrollTop = 0;
    this.first = -1;
    this.render();
    this.page.remember();
  }

  render() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - 8);
    const count = Math.ceil(this.box.clientHeight / ROW_HEIGHT) + 16;
    if (first === this.first && count === this.rendered) return;
    [this.first, this.rendered] = [first, count];
    const rows = [...this.order.slice(first, first + count)];
    const space = hidden => element("tr",
      {"aria-hidden": "true", style: `height:${Math.max(0, hidden) * ROW_HEIGHT}px`});
    this.body.replaceChildren(space(first), ...rows.map((row, i) => this.line(row, first + i)),
      space(this.order.length - first - rows.length));
  }

  line(row, place) {
    const status = this.columns.findIndex(it => it.title === "status");
    const failed = this.show(row, status) === "ok" ? null : "failed";
    const about = {"aria-label": "details and command", onclick: () => this.detail(row)};
    return element("tr", {"aria-rowindex": place + 2, class: failed},
      element("td", {class: "more"}, element("button", about, "▸")),
      this.columns.map((column, number) => {
        const text = this.show(row, number);
        return element("td", {title: text, class: column.show ? "number" : null}, text);
      }));
  }

  // The filters and the order as parts of an address, and back.
  address() {
    const {column, up} = this.sorted, parts = {};
    if (this.wanted.words) parts.words = this.wanted.words;
    if (column >= 0) parts.sort = (up ? "" : "-") + this.columns[column].title;
    for (const [number, value] of Object.entries(this.wanted.menus)) {
      if (value !== "") parts[`where-${this.columns[number].title}`] = value;
    }
    return parts;
  }

  read(parts) {
    const [, down, title] = /^(-?)(.*)$/s.exec(parts.get("sort") ?? "");
    const at = this.columns.findIndex(it => it.title === title);
    this.sorted = at < 0 ? this.longestFirst() : {column: at, up: !down};
    this.wanted = {words: parts.get("words") ?? "", menus: {}};
    this.columns.forEach((column, number) => {
      const value = parts.get(`where-${column.title}`) ?? "";
      if (value === "" || column.choices.includes(value)) this.wanted.menus[number] = value;
    });
    byId("words").value = this.wanted.words;
    for (const menu of byId("menus").querySelectorAll("select")) {
      menu.value = this.wanted.menus[menu.dataset.column] ?? "";
    }
    this.refresh();
  }

  // Shows the reason, the inputs and the command of a row.
  detail(row) {
    const command = commandOf(this.commands, row), of = name => cell(this.commands[name], row);
    const reason = of("reason"), inputs = of("inputs_detail");
    byId("detail").replaceChildren(
      element("p", {}, element("b", {}, `${this.show(row, 0)} `), this.show(row, 1)),
      reason ? element("p", {}, reason) : "",
      inputs ? element("p", {class: "soft"}, `Inputs: ${inputs}`) : "",
      element("p", {class: "command"}, element("code", {tabindex: 0}, command),
        copyButton(command)));
    byId("detail").focus();
  }
}
