"use strict";
// Glue of the pages: charts in the colours that the reader prefers, tables that sort, a slider, and runs behind a cell.

const dark = matchMedia("(prefers-color-scheme: dark)");
const views = [];

function read(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

async function drawCharts() {
  for (const view of views.splice(0)) view.finalize();
  const options = () => ({
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    theme: dark.matches ? "dark" : undefined,
    config: { background: "transparent", view: { stroke: null }, axis: { gridOpacity: 0.4 }, font: "system-ui, sans-serif" },
  });
  for (const place of document.querySelectorAll(".chart")) {
    const drawn = await vegaEmbed(place, read(place.dataset.spec), options());
    views.push(drawn);
    drawn.view.addEventListener("click", (_, item) => {
      if (item && item.datum && item.datum.config_id) showRuns(item.datum.config_id);
    });
  }
  await setAmount();
  document.body.dataset.drawn = dark.matches ? "dark" : "light";
}

async function setAmount() {
  const slider = document.getElementById("amount");
  if (!slider) return;
  const amounts = JSON.parse(slider.dataset.amounts);
  const words = Number(amounts[slider.value]).toLocaleString("en");
  document.getElementById("amount-shown").textContent = words;
  slider.setAttribute("aria-valuetext", `${words} training images`);
  for (const drawn of views) await drawn.view.signal("amount", Number(slider.value)).runAsync();
}

function cell(row, text, isNumber) {
  const made = row.insertCell();
  made.textContent = text;
  if (isNumber) made.className = "number";
}

function showRuns(id) {
  const { columns, runs, names } = read("runs");
  const table = document.getElementById("runs-table");
  table.tBodies[0].replaceChildren();
  for (const values of runs[id] || []) {
    const row = table.tBodies[0].insertRow();
    values.forEach((value, place) => {
      const isNumber = typeof value === "number";
      cell(row, value === null ? "" : isNumber && columns[place] !== "seed" ? value.toFixed(2) : value, isNumber);
    });
  }
  document.getElementById("runs-of").textContent = `${names[id]} (configuration ${id})`;
  document.getElementById("configuration").value = id;
}

function sortBy(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const place = [...head.parentNode.children].indexOf(head);
  const isNumber = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const order = before ? (before === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [one, other] = [value(a), value(b)];
    if (!isNumber) return sign * one.localeCompare(other, "en");
    if (one === "" || other === "") return (one === "") - (other === ""); // what is not known comes last
    return sign * (Number(one) - Number(other));
  });
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sortBy(button));
document.getElementById("amount")?.addEventListener("input", setAmount);
document.getElementById("configuration")?.addEventListener("change", (event) => showRuns(event.target.value));
dark.addEventListener("change", drawCharts);
drawCharts();
