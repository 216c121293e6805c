// The parts that all charts share: they fill a figure of chart.py.

const INNER_HEIGHT = 360;  // pixels of the frame of a chart, about
const LETTER = 6.6;  // pixels of a letter of a name, about

class Chart {
  // `onTap` gets the number of the point that was clicked.
  async open(item, place, onTap) {
    this.place = byId(place);
    const number = Bokeh.documents.length;
    await Bokeh.embed.embed_item(item, place);
    const root = Bokeh.documents[number];
    this.model = name => root.get_model_by_name(name);
    const view = Bokeh.index.get_by_id(root.roots()[0].id);
    view.canvas_view.events_el.tabIndex = -1;  // the keys do nothing there; the ranking has buttons
    this.points = this.model("points");
    this.points.selected.change.connect(() => {
      const [index] = this.points.selected.indices;
      if (index === undefined) return;
      this.points.selected.indices = [];
      onTap(index);
    });
  }

  get width() { return this.place.clientWidth || 700; }

  // Sets the range of an axis and its ticks, which are pairs of a place and words.
  scale(axis, low, high, ticks) {
    const range = this.model(`${axis}_range`);
    [range.start, range.end] = [low, high];
    this.model(`${axis}_axis_ticks`).ticks = ticks.map(([tick]) => tick).sort((a, b) => a - b);
    this.model(`${axis}_axis`).major_label_overrides = new Map(ticks);
  }

  // Writes the names of points where there is room. `across` and `up` are fractions of the frame.
  name(wanted) {
    const taken = [], data = {x: [], y: [], text: [], dx: [], align: []};
    for (const {x, y, across, up, words, short, toRight} of wanted) {
      const at = across * this.width, height = up * INNER_HEIGHT;
      const isWide = text => at + LETTER * text.length + 80 > this.width;
      const text = isWide(words) && (toRight || at < LETTER * words.length + 90) ? short : words;
      const toLeft = !toRight && isWide(text), size = LETTER * text.length;
      const left = toLeft ? at - size - 10 : at + 10;
      const isNear = box => Math.abs(height - box.height) < 15;
      const hits = box => isNear(box) && left < box.right && left + size > box.left;
      if (taken.some(hits)) continue;
      taken.push({left, right: left + size, height});
      data.x.push(x);
      data.y.push(y);
      data.text.push(text);
      data.dx.push(toLeft ? -10 : 10);
      data.align.push(toLeft ? "right" : "left");
    }
    this.model("names").data = data;
  }

  theme(page) {
    const ink = page.css("--ink"), line = page.css("--line"), ground = page.css("--paper");
    const colors = {background_fill_color: ground, border_fill_color: ground};
    Object.assign(this.model("chart"), {...colors, outline_line_color: line});
    for (const name of ["x", "y"]) {
      const ticks = {major_tick_line_color: line, minor_tick_line_color: null};
      const texts = {major_label_text_color: ink, axis_label_text_color: ink};
      Object.assign(this.model(`${name}_axis`), {axis_line_color: line, ...ticks, ...texts});
      this.model(`${name}_grid`).grid_line_color = line;
    }
    this.model("labels").text_color = {value: ink};
    this.model("budget_line").line_color = page.css("--soft");
  }
}

// Ticks of a logarithmic axis with their words: at most `most`, and none near the ticks of `extra`.
function logTicks(low, high, most, show, extra = []) {
  const distance = .06 * Math.log(high / low);
  const isFree = tick => extra.every(([other]) => Math.abs(Math.log(tick / other)) > distance);
  const choices = [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]];
  const found = choices.map(steps => ticksOf(steps, low, high).filter(isFree));
  const ticks = found.find((some, i) => some.length <= most || i === choices.length - 1);
  const short = text => text.replace(/\.0+(?= |$)|(\.\d*[1-9])0+(?= |$)/, "$1");
  return [...ticks.map(tick => [tick, short(show(tick))]), ...extra];
}

// Ticks at powers of two.
function binaryTicks(low, high, most, show) {
  const first = Math.ceil(Math.log2(low)), last = Math.floor(Math.log2(high));
  const step = Math.ceil((last - first + 1) / most) || 1, found = [];
  for (let power = first; power <= last; power += step) found.push([2 ** power, show(2 ** power)]);
  return found.map(([tick, words]) => [tick, words.replace(/\.0+ /, " ")]);
}

// The multiples of powers of ten by these steps between two numbers.
function ticksOf(steps, low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    found.push(...steps.map(step => Number((step * 10 ** power).toPrecision(3))));
  }
  return found.filter(tick => tick >= low && tick <= high);
}

const logFraction = (value, low, high) => Math.log(value / low) / Math.log(high / low);
