// Draws the values of a check with uPlot: axes, ranges, what is under the pointer. Without it the page's own picture stays.
"use strict";
{
  const HOUR = 3600, DAY = 24 * HOUR;
  const box = document.getElementById("values");
  const ranges = new Map([["24 h", DAY], ["7 d", 7 * DAY]]);
  const bar = kept("p", "ranges"), frame = kept("div", ""), told = kept("p", "quiet");
  let range = DAY, plot = null, last = 0;

  // An element that is not the server's, so that an update leaves it alone.
  function kept(name, kind) {
    const element = document.createElement(name);
    element.className = kind;
    element.dataset.keep = "";
    return element;
  }

  const color = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name);
  const number = (value) => new Intl.NumberFormat("en", { maximumSignificantDigits: 6 }).format(value);
  const seconds = (text) => Date.parse(text) / 1000;

  // An hour stands where it ends; the last cycles stand one by one. Where nothing was measured for long, nothing is drawn.
  function toColumns({ hours, cycles }) {
    const limits = new Map(hours.map((each) => [seconds(each.at), [each.threshold, each.threshold_low]]));
    const begin = cycles.length ? seconds(cycles[0].at) : Infinity;
    const rows = hours.filter((each) => seconds(each.at) + HOUR <= begin)
      .map((each) => [seconds(each.at) + HOUR, each.last, each.low, each.high, each.failed ? each.last : null, each.threshold, each.threshold_low]);
    for (const { at, value, status } of cycles) {
      const limit = limits.get(Math.floor(seconds(at) / HOUR) * HOUR) ?? [null, null];
      rows.push([seconds(at), value, value, value, status === "fail" ? value : null, ...limit]);
    }
    const steps = rows.slice(1).map((row, i) => row[0] - rows[i][0]).sort((one, other) => one - other);
    const gap = Math.max(3 * HOUR, 3 * (steps[Math.floor(steps.length / 2)] ?? 0));
    const whole = rows.flatMap((row, i) => i && row[0] - rows[i - 1][0] > gap ? [[row[0] - 1, ...Array(6).fill(null)], row] : [row]);
    return [0, 1, 2, 3, 4, 5, 6].map((column) => whole.map((row) => row[column]));
  }

  function options(width) {
    const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
    const clock = (_, splits, __, ___, step) => splits.map((at) => {
      const text = stamp(at * 1000);
      return step >= DAY || text.slice(11, 16) === "00:00" ? text.slice(5, 10) : text.slice(11, step < 60 ? 19 : 16);
    });
    const limit = { stroke: color("--soft"), dash: [4, 4], width: 1, points: { show: false }, paths: uPlot.paths.stepped({ align: -1 }) };
    const edge = { stroke: "transparent", points: { show: false } };
    return {
      width, height: 280, legend: { show: false }, tzDate: (at) => uPlot.tzDate(new Date(at * 1000), zone === "UTC" ? "Etc/UTC" : zone),
      cursor: { y: false, points: { size: 7 } }, bands: [{ series: [3, 2], fill: color("--line") }],
      axes: [{ ...axis, space: 70, values: clock }, { ...axis, size: 70, values: (_, splits) => splits.map(number) }],
      series: [{}, { stroke: color("--link"), width: 1.5, points: { show: false } }, edge, edge,
        { stroke: color("--fail-cell"), paths: () => null, points: { show: true, size: 6, fill: color("--fail-cell") } }, limit, limit],
      hooks: { setCursor: [tell] },
    };
  }

  // What is under the pointer, else the last value.
  function tell() {
    const at = plot?.cursor.idx ?? last;
    const [time, value, low, high, failed, limit, limitLow] = plot?.data.map((column) => column[at]) ?? [];
    if (time === undefined) return;
    const parts = [value === null ? "no value" : number(value)];
    if (low !== high) parts.push(`${number(low)} to ${number(high)} within the hour`);
    if (failed !== null) parts.push("fail");
    if (limit !== null) parts.push(`threshold ${limitLow === null ? "" : `${number(limitLow)} to `}${number(limit)}`);
    put(told, `${stamp(time * 1000).slice(0, 19)} ${zone}: ${parts.join(", ")}`);
  }

  function show() {
    const now = (Date.now() + ahead) / 1000;
    plot.setScale("x", { min: Math.max(now - range, plot.data[0][0] - 1), max: now });
    for (const each of bar.children) each.setAttribute("aria-pressed", ranges.get(each.textContent) === range);
    tell();
  }

  async function load() {
    const columns = toColumns(await (await answered(box.dataset.history)).json());
    if (!columns[0].length) return;
    last = columns[0].length - 1;
    if (plot) plot.setData(columns, false);
    else {
      box.prepend(bar, frame, told);
      plot = new uPlot(options(frame.clientWidth), columns, frame);
    }
    show();
  }

  for (const [name, span] of ranges) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => { range = span; show(); });
    bar.append(button);
  }
  frame.setAttribute("aria-hidden", "true");  // the words and the table below say the same
  new ResizeObserver(() => plot?.setSize({ width: frame.clientWidth, height: 280 })).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot?.redraw());
  document.addEventListener("redrawn", () => load().catch(() => {}));
  load().catch(() => {});
}
