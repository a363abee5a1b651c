"use strict";
/* Everything that a record says gets into the page as text (textContent), never as markup. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const STORE = `concord-review:${data.run}`;
  const VERDICTS = { "must-link": "one person", "cannot-link": "two persons", skip: "skipped" };
  const KINDS = {
    conflict: "conflict in a person", ruled_out: "would link, but never does",
    rival: "two persons compete", weak_link: "weak link", near_link: "nearly linked",
  };
  // Okabe and Ito (2008), those that white text is read on, and darker ones of the rest.
  const COLOURS = ["#0072b2", "#b34700", "#00735a", "#8a3f6d", "#5b5b00", "#3b4ba3", "#7a1f2b", "#444c55"];
  const feeds = [...new Set(Object.values(data.records).map((r) => r.feed))].sort();
  const colour = (feed) => COLOURS[feeds.indexOf(feed) % COLOURS.length];
  const signed = (bits) => `${bits < 0 ? "\u2212" : "+"}${Math.abs(bits).toFixed(1)}`;
  const percent = (p) => (p > 0.9995 ? "> 99.9 %" : p > 0 && p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

  let kept = { decisions: {}, drafts: {}, past: [], by: "" };
  let shown = [];
  let current = null;

  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  function draw(tag, attributes, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  // --- what is kept between visits: verdicts and reasons, no record -----------------------------
  function load() {
    try {
      const found = JSON.parse(localStorage.getItem(STORE) || "null");
      if (found && found.decisions) kept = { ...kept, ...found };
    } catch { /* A browser that keeps nothing: decisions last as long as the page is open. */ }
  }
  function save() {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept));
    } catch {
      say("This browser keeps nothing: save your decisions before you close the page.");
    }
  }
  function say(text) { $("live").textContent = text; }

  // --- the queue --------------------------------------------------------------------------------
  const ORDER = {
    queue: null,
    edge: (a, b) => Math.abs(a.weight - data.edge) - Math.abs(b.weight - data.edge),
    heavy: (a, b) => b.weight - a.weight,
    light: (a, b) => a.weight - b.weight,
    feeds: (a, b) => a.feeds.localeCompare(b.feeds),
  };
  function options(id, values, title) {
    $(id).append(make("option", { value: "" }, "all"));
    for (const value of values) {
      const count = data.items.filter((item) => item[id] === value).length;
      $(id).append(make("option", { value }, `${title(value)} (${count})`));
    }
  }
  function decided(item) { return kept.decisions[item.id]; }
  function filter() {
    const wanted = (id) => $(id).value;
    shown = data.items.filter((item) =>
      ["kind", "feeds", "band"].every((id) => !wanted(id) || item[id] === wanted(id)) &&
      (!wanted("state") || Boolean(decided(item)) === (wanted("state") === "done")));
    const order = ORDER[wanted("sort")];
    if (order) shown.sort(order);
    $("list").replaceChildren(...shown.map(entry));
    $("count").textContent = `${shown.length} of ${data.items.length} items`;
    select(shown.includes(current) ? current : shown[0] || null, false);
  }
  function entry(item) {
    // One stop of the Tab key for the whole list; arrows move in it.
    const button = make("button", { type: "button", id: `i-${item.id}`, tabindex: "-1" },
      make("span", { class: "row" }, make("span", {}, KINDS[item.kind] || item.kind), make("span", {}, `${item.weight.toFixed(1)} bits`)),
      make("span", { class: "row sub" }, make("span", {}, item.feeds), make("span", { class: "state" }, "")));
    button.addEventListener("click", () => select(item, true));
    const line = make("li", {}, button);
    mark(item, button);
    return line;
  }
  function mark(item, button = $(`i-${item.id}`)) {
    if (!button) return;
    const found = decided(item);
    button.querySelector(".state").textContent = found ? `\u2713 ${VERDICTS[found.verdict]}` : "";
  }
  function progress() {
    const all = data.items.map(decided).filter(Boolean);
    const skips = all.filter((each) => each.verdict === "skip").length;
    $("progress").textContent = `${all.length - skips} decided, ${skips} skipped, ${data.items.length - all.length} open`;
    $("undo").disabled = !kept.past.length;
    $("json").disabled = $("csv").disabled = all.length === skips;
  }

  // --- one item -----------------------------------------------------------------------------------
  function select(item, focus) {
    document.querySelectorAll("#list [aria-current]").forEach((b) => {
      b.removeAttribute("aria-current");
      b.tabIndex = -1;
    });
    current = item;
    $("detail").hidden = !item;
    if (!item) {
      $("title").textContent = data.items.length ? "No item fits the filter" : "Nothing to review";
      return;
    }
    const button = $(`i-${item.id}`);
    if (button) {
      button.setAttribute("aria-current", "true");
      button.tabIndex = 0;
      // Within the list only: the page itself stays where it is.
      const list = $("list"), top = button.offsetTop - list.offsetTop;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + button.offsetHeight > list.scrollTop + list.clientHeight)
        list.scrollTop = top + button.offsetHeight - list.clientHeight;
    }
    const pattern = data.patterns[item.pattern];
    const kind = KINDS[item.kind] || item.kind;
    $("title").textContent = `${kind[0].toUpperCase()}${kind.slice(1)}: ${item.feeds}`;
    $("why").replaceChildren(`${item.why} ${item.weight.toFixed(1)} bits, ${percent(item.probability)}. `,
      make("span", { class: "meta" }, `Item ${item.id}, one of ${item.size} in ${item.stratum}.`));
    $("words").textContent = pattern.words;
    verdict();
    table(item);
    waterfall(pattern);
    graph(item);
    $("item").scrollTop = 0;
    if (focus) {
      $("title").focus({ preventScroll: true });
      // On a narrow page the item stands below the queue.
      if (getComputedStyle($("item")).overflowY !== "auto") $("item").scrollIntoView({ block: "start" });
    }
  }
  function standard(item) { return data.patterns[item.pattern].words; }
  function verdict() {
    const found = decided(current);
    for (const [id, name] of [["must", "must-link"], ["cannot", "cannot-link"], ["skip", "skip"]])
      $(id).setAttribute("aria-pressed", String(Boolean(found) && found.verdict === name));
    $("verdict").textContent = found ? `Noted: ${VERDICTS[found.verdict]}` : "";
    $("reason").value = found && found.reason ? found.reason : kept.drafts[current.id] || standard(current);
  }

  function table(item) {
    const two = [item.left, item.right].map((id) => data.records[id]);
    const head = [item.left, item.right].map((id, n) =>
      make("th", { scope: "col" }, `${n + 1}: ${two[n].feed}`, make("div", { class: "id" }, id)));
    const rows = data.columns.map(([name, title]) => {
      const values = two.map((record) => record.values[name] || []);
      const shared = values[0].some((value) => values[1].includes(value));
      const state = !values[0].length || !values[1].length ? "missing" : shared ? "same" : "differ";
      const told = { missing: values[0].length || values[1].length ? "one side" : "neither", same: "same", differ: "\u2260 differs" };
      return make("tr", { class: state }, make("th", { scope: "row" }, title),
        cell(values[0], values[1]), cell(values[1], values[0]), make("td", {}, told[state]));
    });
    $("both").replaceChildren(
      make("thead", {}, make("tr", {}, make("td", {}), ...head, make("th", { scope: "col" }, "agree"))),
      make("tbody", {}, ...rows));
  }
  /* What one record says, letters marked that the other's nearest value does not have there. */
  function cell(values, others) {
    if (!values.length) return make("td", { class: "none" }, "not said");
    return make("td", {}, ...values.map((value) => {
      if (!others.length || others.includes(value)) return make("div", {}, value);
      const nearest = others.map((other) => common(value, other)).sort((a, b) => b.size - a.size)[0];
      const parts = [];
      [...value].forEach((letter, n) => {
        const differs = !nearest.has(n), last = parts[parts.length - 1];
        if (last && last.differs === differs) last.text += letter;
        else parts.push({ differs, text: letter });
      });
      return make("div", {}, ...parts.map((part) => (part.differs ? make("mark", {}, part.text) : part.text)));
    }));
  }
  /* Places in `a` of a longest common subsequence with `b`. */
  function common(a, b) {
    const x = [...a], y = [...b];
    const best = Array.from({ length: x.length + 1 }, () => new Array(y.length + 1).fill(0));
    for (let i = x.length - 1; i >= 0; i--)
      for (let j = y.length - 1; j >= 0; j--)
        best[i][j] = x[i] === y[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
    const found = new Set();
    for (let i = 0, j = 0; i < x.length && j < y.length;) {
      if (x[i] === y[j]) { found.add(i); i++; j++; }
      else if (best[i + 1][j] >= best[i][j + 1]) i++;
      else j++;
    }
    return found;
  }

  function waterfall(pattern) {
    const steps = pattern.steps.filter(([, , , silent]) => !silent);
    const bars = [{ says: "before any comparison", from: 0, to: data.prior, kind: "start" }];
    let sum = data.prior;
    for (const [, says, bits] of steps) {
      bars.push({ says, from: sum, to: sum + bits, bits, kind: bits < 0 ? "against" : "for" });
      sum += bits;
    }
    bars.push({ says: "all together", from: 0, to: sum, kind: "sum" });
    const width = Math.max(280, Math.min(820, $("waterfall").clientWidth || 640));
    // On a narrow page the words stand above their bar.
    const narrow = width < 560, left = narrow ? 4 : 300, high = narrow ? 40 : 26, room = 46;
    const ends = bars.flatMap((bar) => [bar.from, bar.to]).concat(0, data.edge + data.prior);
    const low = Math.min(...ends), span = Math.max(...ends) - low || 1;
    const x = (bits) => left + room + ((bits - low) / span) * (width - left - 2 * room);
    const height = bars.length * high + 24;
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `Waterfall, from ${signed(data.prior)} bits to ${signed(sum)}. ${pattern.words}` });
    const line = (bits, label) => svg.append(
      draw("line", { class: "grid", x1: x(bits), x2: x(bits), y1: 0, y2: height - 18 }),
      draw("text", { class: "soft", x: Math.min(x(bits), width - 4 * label.length), y: height - 4, "text-anchor": "middle" }, label));
    const edge = data.edge + data.prior;
    if (Math.abs(edge) * ((width - left) / span) < 60) line(edge, Math.abs(edge) < 0.05 ? "even odds = edge" : "edge");
    else { line(0, "even odds"); line(edge, "edge"); }
    bars.forEach((bar, n) => {
      const y = n * high, top = narrow ? y + 18 : y + 4;
      const a = x(Math.min(bar.from, bar.to)), b = x(Math.max(bar.from, bar.to));
      svg.append(draw("text", { x: narrow ? left : 0, y: narrow ? y + 13 : y + 18 }, narrow ? clipped(bar.says, width / 7) : clipped(bar.says, 46)));
      svg.append(draw("rect", { class: bar.kind, x: a, y: top, width: Math.max(1.5, b - a), height: 17 }));
      if (n + 1 < bars.length)
        svg.append(draw("line", { class: "thread", x1: x(bar.to), x2: x(bar.to), y1: top + 17, y2: top + high }));
      const down = bar.to < bar.from;
      svg.append(draw("text", { x: down ? a - 4 : b + 4, y: top + 13, "text-anchor": down ? "end" : "start" },
        signed(bar.bits === undefined ? bar.to : bar.bits)));
    });
    $("waterfall").replaceChildren(svg);
  }
  function clipped(text, most) { return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text; }

  /* Records on a circle, those of one person side by side; both sides of the item are 1 and 2. */
  function graph(item) {
    const persons = [...new Set([item.left, item.right, ...item.records].map((id) => data.persons[id]))];
    const ids = persons.flatMap((person) => {
      const mine = item.records.filter((id) => data.persons[id] === person);
      // The two asked about face each other across the gap.
      return mine.sort((a, b) => Number(a === item.left) - Number(b === item.left) || Number(b === item.right) - Number(a === item.right));
    });
    const rest = ids.filter((id) => id !== item.left && id !== item.right);
    const number = new Map([item.left, item.right, ...rest].map((id, n) => [id, n + 1]));
    const radius = ids.length < 3 ? 90 : Math.max(122, 5.2 * ids.length), several = persons.length > 1;
    // A gap after each person; that between 1 and 2 is at the top.
    const slots = ids.length + (several ? persons.length : 0);
    const top = several ? ids.indexOf(item.left) + 1 : -0.5;
    const place = new Map();
    const svg = draw("svg", { role: "img",
      "aria-label": `${ids.length} records of ${persons.length} person${persons.length > 1 ? "s" : ""}; the table below has them` });
    let slot = 0;
    persons.forEach((person, n) => {
      const mine = ids.filter((id) => data.persons[id] === person);
      const angles = mine.map((id) => {
        const angle = (2 * Math.PI * (slot++ - top)) / slots - Math.PI / 2;
        place.set(id, [radius * Math.cos(angle), radius * Math.sin(angle)]);
        return angle;
      });
      if (!several) return;
      slot++;
      const angle = (angles[0] + angles[angles.length - 1]) / 2;
      const side = Math.cos(angle);
      svg.append(draw("text", { class: "soft", "text-anchor": side < -0.3 ? "end" : side > 0.3 ? "start" : "middle",
        x: (radius + 24) * side, y: (radius + 30) * Math.sin(angle) + 4 }, `person ${"ABC"[n] || n + 1}`));
    });
    const high = [...place.values()].map(([, y]) => y).sort((a, b) => a - b), far = radius + 85;
    const [from, to] = [high[0] - 45, high[high.length - 1] + 45];
    svg.setAttribute("viewBox", `${-far} ${from} ${2 * far} ${to - from}`);
    let joined = false;
    const edges = data.edges.filter(([a, b]) => place.has(a) && place.has(b));
    const path = (a, b, kind, thick, title) => {
      const [[x1, y1], [x2, y2]] = [place.get(a), place.get(b)];
      svg.append(draw("line", { class: `edge ${kind}`, x1, y1, x2, y2, "stroke-width": thick }, draw("title", {}, title)));
    };
    for (const [a, b, weight, never] of edges.sort((e, f) => e[2] - f[2])) {
      const asked = number.get(a) + number.get(b) === 3;
      joined ||= asked;
      path(a, b, never ? "never" : asked ? "asked" : "", Math.max(1, Math.min(7, 1 + (weight - data.edge + 8) / 5)),
        `${number.get(a)} and ${number.get(b)}: ${weight.toFixed(1)} bits${never ? ", never linked" : ""}`);
    }
    for (const id of ids) {
      const [x, y] = place.get(id), record = data.records[id];
      svg.append(draw("g", { class: `node ${number.get(id) < 3 ? "asked" : ""}` },
        draw("circle", { cx: x, cy: y, r: 14, fill: colour(record.feed) }),
        draw("text", { x, y: y + 4.5 }, String(number.get(id))), draw("title", {}, record.feed)));
    }
    $("graph").replaceChildren(svg);
    const used = [...new Set(ids.map((id) => data.records[id].feed))].sort();
    const sample = (kind, thick) => draw("svg", { width: 26, height: 12, "aria-hidden": "true" },
      draw("line", { class: `edge ${kind}`, x1: 0, x2: 26, y1: 6, y2: 6, "stroke-width": thick }));
    $("legend").replaceChildren(
      ...used.map((feed) => make("li", {}, draw("svg", { width: 14, height: 14, "aria-hidden": "true" },
        draw("circle", { cx: 7, cy: 7, r: 6, fill: colour(feed) })), feed)),
      make("li", {}, sample("", 4), "pair, the heavier the thicker"),
      ...(edges.some((e) => e[3]) ? [make("li", {}, sample("never", 3), "never linked")] : []),
      make("li", {}, sample("asked", 3), joined ? "the pair asked about" : "1 and 2, asked about, were not compared"));
    const columns = data.columns;
    $("all").replaceChildren(
      make("thead", {}, make("tr", {}, ...["", "person", "feed", ...columns.map(([, title]) => title)].map((t) => make("th", { scope: "col" }, t)))),
      make("tbody", {}, ...[...number].map(([id, n]) => make("tr", {}, make("th", { scope: "row" }, String(n)),
        make("td", {}, "ABC"[persons.indexOf(data.persons[id])] || String(persons.indexOf(data.persons[id]) + 1)),
        make("td", {}, data.records[id].feed),
        ...columns.map(([name]) => make("td", {}, (data.records[id].values[name] || []).join(", ")))))));
  }

  // --- deciding -----------------------------------------------------------------------------------
  function decide(name) {
    if (!current) return;
    const item = current, before = decided(item) || null;
    const reason = $("reason").value.trim() || standard(item);
    kept.past.push([item.id, before]);
    kept.decisions[item.id] = { verdict: name, reason };
    delete kept.drafts[item.id];
    after(item);
    const here = shown.indexOf(item);
    const next = [...shown.slice(here + 1), ...shown.slice(0, here)].find((each) => !decided(each));
    say(`${VERDICTS[name]}. ${next ? "Next item." : "That was the last one in the list."}`);
    if (next) select(next, true); else verdict();
  }
  function undo() {
    const last = kept.past.pop();
    if (!last) return say("Nothing to undo.");
    const [id, before] = last, item = data.items.find((each) => each.id === id);
    if (before) kept.decisions[id] = before; else delete kept.decisions[id];
    if (!item) return save();
    after(item);
    say("Undone.");
    if (!shown.includes(item)) { for (const each of ["kind", "feeds", "band", "state"]) $(each).value = ""; filter(); }
    select(item, true);
  }
  function after(item) { save(); mark(item); progress(); }
  function step(by) {
    const next = shown[shown.indexOf(current) + by];
    if (next) select(next, true); else say(by > 0 ? "Last item." : "First item.");
  }

  // --- export, as `concord review import` reads it --------------------------------------------------
  function rows() {
    return data.items.filter((item) => decided(item) && decided(item).verdict !== "skip").map((item) => ({
      left_record_id: item.left, right_record_id: item.right,
      verdict: decided(item).verdict, reason: decided(item).reason,
      ...(kept.by.trim() ? { decided_by: kept.by.trim() } : {}),
    }));
  }
  function csv(given) {
    const names = ["left_record_id", "right_record_id", "verdict", "reason", "decided_by"];
    const quoted = (text) => `"${String(text ?? "").replaceAll('"', '""')}"`;
    return [names.join(","), ...given.map((row) => names.map((name) => quoted(row[name])).join(","))].join("\r\n") + "\r\n";
  }
  function download(ending, type, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: `decisions-${data.run}.${ending}` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`${rows().length} decisions saved.`);
  }

  // --- wiring -----------------------------------------------------------------------------------------
  const KEYS = {
    j: () => step(1), k: () => step(-1), m: () => decide("must-link"), n: () => decide("cannot-link"),
    s: () => decide("skip"), u: undo, r: () => current && $("reason").focus(), "?": () => $("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    const typing = ["INPUT", "TEXTAREA", "SELECT"].includes(event.target.tagName);
    if (typing && event.key === "Escape") $("title").focus();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || $("help").open || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  $("list").addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key], next = shown[shown.indexOf(current) + by];
    if (!by) return;
    event.preventDefault();
    if (!next) return;
    select(next, false);
    $(`i-${next.id}`).focus({ preventScroll: true });
  });
  $("must").addEventListener("click", KEYS.m);
  $("cannot").addEventListener("click", KEYS.n);
  $("skip").addEventListener("click", KEYS.s);
  $("undo").addEventListener("click", undo);
  $("help-open").addEventListener("click", KEYS["?"]);
  $("reason").addEventListener("input", () => {
    const found = decided(current), text = $("reason").value.trim();
    if (found) found.reason = text || standard(current); else kept.drafts[current.id] = text;
    save();
  });
  $("by").addEventListener("input", () => { kept.by = $("by").value; save(); });
  $("filters").addEventListener("change", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("json").addEventListener("click", () => download("json", "application/json", JSON.stringify(rows(), null, 1)));
  $("csv").addEventListener("click", () => download("csv", "text/csv", csv(rows())));
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    if (current) waterfall(data.patterns[current.pattern]);
  });

  load();
  $("by").value = kept.by;
  const distinct = (name) => [...new Set(data.items.map((item) => item[name]))];
  options("kind", distinct("kind"), (kind) => KINDS[kind] || kind);
  options("feeds", distinct("feeds").sort(), String);
  const lightest = (band) => Math.min(...data.items.filter((item) => item.band === band).map((item) => item.weight));
  options("band", distinct("band").sort((a, b) => lightest(a) - lightest(b)), String);
  progress();
  filter();
})();
