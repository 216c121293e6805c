// The rows of all cases: which are shown, in which order, and as CSV.

const ENDS = ["", "_low", "_high"];  // of the columns of a number and its interval

class CaseRows {
  constructor({tables, facts}) {
    this.table = tables.cases;
    this.commands = tables.commands;
    this.accuracy = tables.accuracy;
    this.facts = facts.accuracy;
    this.columns = facts.columns;
    this.count = this.table.c0.rows;
    this.order = Uint32Array.from({length: this.count}, (_, i) => i);
    this.sorted = this.longestFirst();
    this.wanted = {words: "", menus: {}};
    this.widths = this.columns.map((_, number) => this.widthOf(number));
  }

  // The numbers of a column of the table by its title; undefined if there are none.
  columnOf(title) {
    return this.table[`c${this.columns.findIndex(it => it.title === title && it.show)}`];
  }

  longestFirst() {
    return {column: this.columns.findIndex(it => it.title === "length"), up: false};
  }

  show(row, number) {
    const {show} = this.columns[number], parts = ENDS.map(end => this.table[`c${number}${end}`]);
    const [value, low, high] = parts.map(part => part ? cell(part, row) : null);
    return show ? withInterval(show, value, low, high) : String(value);
  }

  // The width of a column in letters, from its longest word or from a sample of its numbers.
  widthOf(number) {
    const {words} = this.table[`c${number}`], step = Math.ceil(this.count / 300);
    const sample = {length: Math.ceil(this.count / step)};
    const found = words ?? Array.from(sample, (_, i) => this.show(i * step, number));
    const sizes = found.slice(0, 5000).map(word => word.length);
    return Math.min(44, Math.max(this.columns[number].title.length + 3, ...sizes) + 2);
  }

  // The rows that contain all words and have the chosen value of each menu, in the order of the
  // sorted column.
  filter() {
    const tests = [...this.menuTests(), ...this.wordTests()], kept = new Uint32Array(this.count);
    let shown = 0;
    for (const row of this.sortedRows()) {
      if (tests.every(test => test(row))) kept[shown++] = row;
    }
    this.order = kept.slice(0, shown);
  }

  menuTests() {
    const chosen = Object.entries(this.wanted.menus).filter(([, value]) => value !== "");
    return chosen.map(([number, value]) => {
      const {words, values} = this.table[`c${number}`], code = words.indexOf(value);
      return row => values[row] === code;
    });
  }

  wordTests() {
    const own = this.columns.map((_, number) => this.table[`c${number}`]).filter(it => it.words);
    const searched = [...own, this.commands.reason];
    return this.wanted.words.toLowerCase().split(/\s+/).filter(Boolean).map(word => {
      const has = ({words}) => words.map(text => text.toLowerCase().includes(word));
      const found = searched.map(it => ({values: it.values, has: has(it)}));
      const hits = found.filter(it => it.has.some(Boolean));
      return row => hits.some(it => it.has[it.values[row]]);
    });
  }

  sortedRows() {
    const {column, up} = this.sorted, rows = Uint32Array.from({length: this.count}, (_, i) => i);
    if (column < 0) return rows;
    const {values, words} = this.table[`c${column}`], key = new Float64Array(this.count);
    const places = words && placesOf(words, up);
    for (let row = 0; row < this.count; row++) {
      const value = values[row];
      key[row] = words ? places[value] : Number.isNaN(value) ? Infinity : up ? value : -value;
    }
    return rows.sort((a, b) => key[a] - key[b] || a - b);
  }

  // The rows of the current order as CSV; a text that a spreadsheet takes for a formula gets an
  // apostrophe.
  csv() {
    const heads = this.columns.flatMap((column, number) => ENDS
      .map(end => [column.title + end.replace("_", " "), this.table[`c${number}${end}`]])
      .filter(([, values]) => values));
    const quoted = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const written = (column, row) => {
      const value = cell(column, row);
      if (value === null) return "";
      return column.words ? quoted(value.replace(/^(?=[=+\-@\t\r])/, "'")) : String(value);
    };
    const lines = [heads.map(([title]) => quoted(title)).join(",")];
    for (const row of this.order) {
      lines.push(heads.map(([, column]) => written(column, row)).join(","));
    }
    return lines.join("\n") + "\n";
  }
}

// The place of each word in rising or falling order; an empty word is last.
function placesOf(words, up) {
  const collator = new Intl.Collator("en", {numeric: true}), places = [];
  const order = words.map((word, code) => [word, code]).sort(([a], [b]) =>
    (a === "") - (b === "") || collator.compare(a, b) * (up ? 1 : -1));
  order.forEach(([, code], place) => { places[code] = place; });
  return places;
}
