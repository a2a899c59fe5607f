"use strict";
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(unpacked).json();
  const names = Object.keys(data.columns);
  const at = Object.fromEntries(names.map((name, place) => [name, place]));
  const value = (row, name) => row[at[name]];
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /* ---- texts: only ever as text, never as markup */

  const made = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, given] of Object.entries(properties)) {
      if (name in node) node[name] = given;
      else node.setAttribute(name, given);
    }
    node.append(...children);
    return node;
  };
  const shown = (found) => {
    if (found === null || found === undefined) return "";
    if (typeof found !== "number") return String(found);
    if (Number.isInteger(found)) return found.toLocaleString("en");
    const size = Math.abs(found);
    if (size >= 1000) return found.toLocaleString("en", { maximumFractionDigits: 0 });
    return String(Number(found.toPrecision(4)));
  };
  const MARKS = { SUSPECT: "? SUSPECT", INVALID: "✗ INVALID" };
  const inWords = (name, found) => (name === "verdict" ? MARKS[found] ?? shown(found) : shown(found));

  // a recipe may go on in the next line after each of its choices
  const breakable = (text) => text.split(/(?<=\+)/).flatMap((part) => [part, document.createElement("wbr")]).slice(0, -1);

  const table = (headings, rows, label) => {
    const head = made("tr", {}, ...headings.map((text) => made("th", { scope: "col" }, text)));
    const body = made("tbody");
    for (const row of rows) {
      const cells = row.map((text, place) => {
        const cell = place ? made("td") : made("th", { scope: "row" });
        cell.append(...breakable(String(text)));
        return cell;
      });
      body.append(made("tr", {}, ...cells));
    }
    return made("table", { "aria-label": label }, made("thead", {}, head), body);
  };

  /* ---- the reader's scheme: figures come in the light one's colours */

  const dark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => dark.matches && !printing;
  const coloured = (given) => {
    if (typeof given === "string") return isDark() && Object.hasOwn(data.dark, given) ? data.dark[given] : given;
    if (Array.isArray(given)) return given.map(coloured);
    if (given && typeof given === "object")
      return Object.fromEntries(Object.entries(given).map(([name, inner]) => [name, coloured(inner)]));
    return given;
  };

  /* ---- charts */

  const chosen = { group: 0, batch: null };
  const coarse = matchMedia("(pointer: coarse)").matches;
  const hidden = new Map();
  const near = new Set();

  const chartOf = (name) => {
    const of = data.run?.[name] ?? data.groups[chosen.group]?.charts[name];
    return of && (of["*"] ?? of[chosen.batch]);
  };

  // a long recipe loses its middle where the chart is narrow; its table has all of it
  const LETTER_PX = 7.2;
  const fitting = (text, width) => {
    const whole = unescaped(text);
    const most = Math.floor(width / LETTER_PX);
    if (whole.length <= most) return text;
    const [name, ...rest] = whole.split(" · ");
    const tail = rest.length ? ` · ${rest.join(" · ")}` : "";
    const half = Math.max(4, Math.floor((most - tail.length - 1) / 2));
    return escaped(`${name.slice(0, half)}…${name.slice(-half)}${tail}`);
  };

  const layoutOf = (chart, width) => {
    const layout = coloured(chart.figure.layout);
    for (const label of layout.annotations ?? []) label.text = fitting(label.text, width - 24);
    layout.template = coloured(data.template);
    layout.template.layout.font.family = getComputedStyle(document.body).fontFamily;
    // a finger scrolls the page, a mouse may zoom
    layout.dragmode = coarse ? false : "zoom";
    if (coarse) for (const axis of ["xaxis", "yaxis"]) layout[axis] = { ...layout[axis], fixedrange: true };
    return layout;
  };

  const draw = (figure) => {
    const name = figure.dataset.chart;
    const chart = chartOf(name);
    const plot = one(".plot", figure);
    if (!chart?.figure) return;
    const off = hidden.get(name) ?? new Set();
    const traces = coloured(chart.figure.data).map((trace) => ({ ...trace, visible: !off.has(trace.name) }));
    const layout = layoutOf(chart, printing ? PRINTED_PX : plot.clientWidth);
    if (printing) layout.width = PRINTED_PX;
    Plotly.react(plot, traces, layout, { displayModeBar: false, responsive: true });
    figure.dataset.drawn = "yes";
  };

  const PRINTED_PX = 640;
  const watching = new IntersectionObserver(
    (seen) => {
      for (const { target, isIntersecting } of seen) {
        if (!isIntersecting) continue;
        watching.unobserve(target);
        near.add(target);
        draw(target);
      }
    },
    { rootMargin: "400px" },
  );

  const SHAPES = {
    circle: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", square: "M-4.5 -4.5h9v9h-9z", diamond: "M0 -6L6 0L0 6L-6 0z",
    "triangle-up": "M0 -6L5.5 4H-5.5z", "triangle-down": "M0 6L5.5 -4H-5.5z",
    cross: "M-2 -6h4v4h4v4h-4v4h-4v-4h-4v-4h4z", x: "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0z",
    "diamond-tall": "M0 -7L3.5 0L0 7L-3.5 0z",
  };
  const DASHES = { dot: "2 3", dash: "6 3", solid: "" };
  const drawn = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, given] of Object.entries(attributes)) node.setAttribute(name, given);
    return node;
  };
  const swatch = (trace) => {
    const svg = drawn("svg", { width: 34, height: 16, viewBox: "-17 -8 34 16", "aria-hidden": "true" });
    const colour = coloured(trace.line?.color ?? trace.marker?.color ?? "#000");
    if (trace.type === "bar") {
      svg.append(drawn("rect", { x: -14, y: -6, width: 28, height: 12, fill: colour, class: `bar ${trace.marker.pattern?.shape === "/" ? "striped" : trace.marker.pattern?.shape === "x" ? "crossed" : ""}` }));
      const lines = { "/": ["M-10 6L2 -6M-2 6L10 -6"], x: ["M-10 6L2 -6M-2 6L10 -6M-10 -6L2 6M-2 -6L10 6"] }[trace.marker.pattern?.shape] ?? [];
      for (const path of lines) svg.append(drawn("path", { d: path, class: "hatch" }));
      return svg;
    }
    if ((trace.mode ?? "").includes("lines"))
      svg.append(drawn("line", { x1: -16, x2: 16, y1: 0, y2: 0, stroke: colour, "stroke-width": trace.line?.width ?? 2, "stroke-dasharray": DASHES[trace.line?.dash] ?? "" }));
    if ((trace.mode ?? "").includes("markers")) {
      const symbol = [trace.marker.symbol].flat()[0]?.replace("-open", "") ?? "circle";
      svg.append(drawn("path", { d: SHAPES[symbol] ?? SHAPES.circle, fill: colour }));
    }
    return svg;
  };

  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const unescaped = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  const legend = (figure, chart) => {
    const list = one(".legend", figure);
    const name = figure.dataset.chart;
    const traces = chart.figure ? chart.figure.data.filter((trace) => trace.showlegend) : [];
    list.hidden = !traces.length;
    const off = hidden.get(name) ?? new Set();
    list.replaceChildren(
      ...traces.map((trace) => {
        const button = made("button", { type: "button" }, swatch(trace), made("span", {}, ...breakable(unescaped(trace.name))));
        button.setAttribute("aria-pressed", String(!off.has(trace.name)));
        button.addEventListener("click", () => {
          if (!off.delete(trace.name)) off.add(trace.name);
          hidden.set(name, off);
          button.setAttribute("aria-pressed", String(!off.has(trace.name)));
          draw(figure);
        });
        return made("li", {}, button);
      }),
    );
  };

  const tableOf = (chart) =>
    chart.rows.length || !chart.cells.length
      ? [chart.columns, chart.rows.map((row) => row.map(shown))]
      : [
          chart.columns.map((name) => data.columns[name]),
          chart.cells.map((cell) => chart.columns.map((name) => inWords(name, value(data.rows[cell], name)))),
        ];
  const fill = (figure) => {
    const chart = chartOf(figure.dataset.chart);
    const details = one("details.table", figure);
    if (!chart || !details.open) return;
    const [headings, rows] = tableOf(chart);
    one(".scroll", details).replaceChildren(table(headings, rows, one(".scroll", details).getAttribute("aria-label")));
  };

  const set = (figure) => {
    const chart = chartOf(figure.dataset.chart);
    figure.hidden = !chart;
    if (!chart) return;
    const plot = one(".plot", figure);
    one(".says", figure).replaceChildren(...breakable(chart.says));
    figure.classList.toggle("nothing", !chart.figure);
    plot.hidden = !chart.figure;
    plot.setAttribute("aria-label", `${one("figcaption :is(h3, h4)", figure).textContent}. ${chart.says}`);
    if (chart.figure) plot.style.minHeight = `${chart.figure.layout.height}px`;
    one("details.table", figure).hidden = !chart.rows.length && !chart.cells.length;
    one(".points", figure).replaceChildren(...chart.points.map((text) => made("li", {}, ...breakable(text))));
    one(".points", figure).hidden = !chart.points.length;
    legend(figure, chart);
    fill(figure);
    if (near.has(figure)) draw(figure);
    else watching.observe(figure);
  };

  const figures = all("figure.chart");
  for (const figure of figures) one("details.table", figure).addEventListener("toggle", () => fill(figure));
  const setAll = () => figures.forEach(set);

  /* ---- which group and batch size the charts show */

  const options = (select, values, preferred) => {
    select.replaceChildren(...values.map(([given, text]) => made("option", { value: given }, text)));
    if (values.some(([given]) => String(given) === String(preferred))) select.value = preferred;
  };
  const bestBatch = (group) => {
    const rows = data.rows.slice(group.first, group.first + group.count).filter(isUsable);
    const best = rows.reduce((a, b) => (a && value(a, "throughput_samples_sec") >= value(b, "throughput_samples_sec") ? a : b), null);
    return best ? value(best, "batch_size") : group.batches[0];
  };
  const isUsable = (row) => value(row, "verdict") !== null && value(row, "verdict") !== "INVALID";
  const view = one("#view");
  if (view && data.groups.length) {
    const { group, batch } = view.elements;
    const setGroup = () => {
      chosen.group = Number(group.value);
      const of = data.groups[chosen.group];
      options(batch, of.batches.map((size) => [size, String(size)]), chosen.batch ?? bestBatch(of));
      if (!of.batches.map(String).includes(batch.value)) batch.value = String(bestBatch(of));
      chosen.batch = batch.value;
      hidden.clear();
      setAll();
    };
    group.addEventListener("change", setGroup);
    batch.addEventListener("change", () => { chosen.batch = batch.value; setAll(); });
    view.addEventListener("submit", (event) => event.preventDefault());
    group.parentElement.hidden = data.groups.length < 2;
    view.hidden = false;
    setGroup();
    batch.parentElement.hidden = data.groups.every((of) => of.batches.length < 2);
    view.hidden = group.parentElement.hidden && batch.parentElement.hidden;
  } else setAll();

  /* ---- the answer under the reader's limits */

  const limits = one("#limits");
  const LESS = new Set(["latency_p50_ms", "ram_usage_mb", "vram_usage_mb", "model_size_mb", "energy_per_sample_j", "start_s"]);
  const COSTS = ["build_time_s", "load_s", "first_call_ms", "ram_usage_mb", "vram_usage_mb", "model_size_mb", "energy_per_sample_j", "pays"];
  const LISTED_COSTS = COSTS.map((name) => (name === "pays" ? "pays_after" : name));
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  const choose = () => {
    const form = limits.elements;
    const group = data.groups[Number(form.group.value)];
    const tail = `${form.latency.value}${form.percentile.value}_ms`;
    const goal = form.goal.value === "latency_p50_ms" ? `${form.latency.value}p50_ms` : form.goal.value;
    const [most, least] = [form.most, form.least].map((field) => (field.value === "" ? null : Number(field.value)));
    const out = { INVALID: 0, unmeasured: 0, SUSPECT: 0, untold: 0, slow: 0, unlabelled: 0, wrong: 0, aimless: 0 };
    const left = data.rows.slice(group.first, group.first + group.count).filter((row) => {
      const verdict = value(row, "verdict");
      const why =
        verdict === null ? "unmeasured"
        : verdict === "INVALID" ? "INVALID"
        : form.batch.value && String(value(row, "batch_size")) !== form.batch.value ? "elsewhere"
        : verdict === "SUSPECT" && !form.suspect.checked ? "SUSPECT"
        : most !== null && value(row, tail) === null ? "untold"
        : most !== null && value(row, tail) > most ? "slow"
        : least !== null && value(row, "accuracy_top1") === null ? "unlabelled"
        : least !== null && value(row, "accuracy_top1") < least ? "wrong"
        : value(row, goal) === null ? "aimless"
        : null;
      if (why) out[why] = (out[why] ?? 0) + 1;
      return !why;
    });
    const sign = LESS.has(form.goal.value) ? 1 : -1;
    left.sort((a, b) => sign * (value(a, goal) - value(b, goal)));
    tell(group, left, out, tail, goal, least);
  };

  const told = (row, name) => `${shown(value(row, name))} ${data.columns[name].split(", ").at(-1)}`;
  const interval = (row, name, unit = "") => {
    const [low, high] = ["low", "high"].map((end) => value(row, `${name}_${end}${unit}`));
    return low === null || high === null || low === undefined ? "" : ` (95 %: ${shown(low)} to ${shown(high)})`;
  };

  const tell = (group, left, out, tail, goal, least) => {
    const target = one("#choice");
    const best = left[0];
    const reasons = [
      [out.slow, "over the latency limit"],
      [out.untold, `without this percentile: too few calls for it. --set percentiles=50+${tail.match(/p(\d+)_ms$/)[1]} goes on until there are enough`],
      [out.wrong, "under the accuracy limit"],
      [out.unlabelled, "without a top-1"],
      [out.SUSPECT, "SUSPECT"],
      [out.INVALID, "INVALID"],
      [out.unmeasured, "not measured"],
      [out.aimless, `without ${data.columns[goal]}`],
    ].filter(([number]) => number);
    const excluded = reasons.length ? made("p", { className: "fine" }, `Left out: ${reasons.map(([number, why]) => `${count(number, "row")} ${why}`).join("; ")}.`) : "";
    if (!best) {
      target.replaceChildren(made("p", { className: "sentence" }, `Nothing measured for ${group.title} keeps these limits.`), excluded);
      return;
    }
    const doubt = value(best, "verdict") === "SUSPECT" ? " This row is SUSPECT: see its reason below." : "";
    const right = value(best, "accuracy_top1") === null ? "" : `, top-1 ${shown(value(best, "accuracy_top1"))} %${interval(best, "accuracy_top1")}`;
    const unsure = least !== null && value(best, "accuracy_top1_low") < least ? " The low end of its accuracy's interval is under your limit." : "";
    const late = tail.endsWith("p50_ms") || value(best, tail) === null ? "" : `, ${told(best, tail)} at ${tail.match(/p\d+/)[0]}`;
    const sentence = made("p", { className: "sentence" }, ...breakable(
      `Deploy ${value(best, "optimization_technique")} at batch ${value(best, "batch_size")} on ${value(best, "device")}: ` +
      `${shown(value(best, "throughput_samples_sec"))} samples/s, ${shown(value(best, "latency_p50_ms"))} ms per batch` +
      `${interval(best, "latency_p50", "_ms")}${late}${right}.${doubt}${unsure}`));
    const costs = made("dl", { className: "costs" });
    for (const name of COSTS) {
      const found = value(best, name);
      if (found !== null) costs.append(made("div", {}, made("dt", {}, data.columns[name]), made("dd", {}, shown(found))));
    }
    const columns = [...new Set(["optimization_technique", "batch_size", goal, "throughput_samples_sec", "latency_p50_ms", tail, "accuracy_top1", ...LISTED_COSTS, "verdict"])]
      .filter((name) => left.some((row) => value(row, name) !== null));
    const rows = left.slice(0, 10).map((row) => columns.map((name) => inWords(name, value(row, name))));
    const region = made("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "What keeps these limits" },
      table(columns.map((name) => data.columns[name]), rows, "What keeps these limits, the best first"));
    target.replaceChildren(sentence, costs,
      made("p", {}, `${count(left.length, "row")} ${left.length === 1 ? "keeps" : "keep"} these limits; the best ${Math.min(10, left.length)}:`), region, excluded);
  };

  if (limits && data.groups.length) {
    const form = limits.elements;
    const setBatches = () => {
      const group = data.groups[Number(form.group.value)];
      options(form.batch, [["", "any"], ...group.batches.map((size) => [size, String(size)])], form.batch.value);
    };
    const rows = data.rows.filter(isUsable);
    // the highest percentile that this run states
    const told = ["p99", "p95", "p90", "p50"].find((name) => rows.some((row) => value(row, `latency_${name}_ms`) !== null));
    if (told) form.percentile.value = told;
    for (const option of form.goal.options)
      option.disabled = !rows.some((row) => value(row, option.value) !== null);
    form.group.parentElement.hidden = data.groups.length < 2;
    setBatches();
    form.group.addEventListener("change", setBatches);
    limits.addEventListener("input", choose);
    limits.addEventListener("submit", (event) => event.preventDefault());
    limits.hidden = false;
    choose();
  }

  /* ---- all cells, made when somebody looks */

  const every = one("#all");
  if (every) {
    const NOT_SHOWN = new Set(["latency_p50_low_ms", "latency_p50_high_ms", "speedup_low", "speedup_high", "accuracy_top1_low", "accuracy_top1_high"]);
    const columns = ["optimization_technique", ...names.filter((name) => name !== "optimization_technique" && !NOT_SHOWN.has(name) && data.rows.some((row) => value(row, name) !== null))];
    const list = () => {
      const words = one("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = data.rows.filter((row) => {
        const text = row.filter((found) => typeof found === "string").join(" ").toLowerCase();
        return words.every((word) => text.includes(word));
      });
      one("#found").textContent = words.length ? `${count(rows.length, "cell")} of ${data.rows.length}` : "";
      one(".scroll", every).replaceChildren(
        table(columns.map((name) => data.columns[name]), rows.map((row) => columns.map((name) => inWords(name, value(row, name)))), "All cells"));
    };
    let waiting = 0;
    every.addEventListener("toggle", () => { if (every.open) list(); });
    one("#find").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(list, 150); });
  }

  /* ---- scheme and paper */

  const redraw = () => { for (const figure of figures) { const chart = chartOf(figure.dataset.chart); if (chart) legend(figure, chart); if (near.has(figure)) draw(figure); } };
  const opened = [];
  dark.addEventListener("change", redraw);
  let wide = innerWidth;
  let resized = 0;
  addEventListener("resize", () => {
    if (innerWidth === wide) return;
    wide = innerWidth;
    clearTimeout(resized);
    resized = setTimeout(redraw, 150);
  });
  addEventListener("beforeprint", () => {
    printing = true;
    opened.push(...all("#environment details:not([open]), details.matrix:not([open])"));
    for (const details of opened) details.open = true;
    for (const figure of figures) near.add(figure);
    redraw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    for (const details of opened.splice(0)) details.open = false;
    for (const figure of figures) delete one(".plot", figure).layout?.width;
    redraw();
  });
  document.documentElement.dataset.ready = "yes";
})();
