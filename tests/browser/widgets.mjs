// The widgets in a real JupyterLab: keyboard and mouse change what is drawn. `make browser-test` runs it; pictures land beside the notebooks.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { runNotebook, startBrowser, startLab } from "./lab.mjs";

const [python, folder] = process.argv.slice(2);
const pictures = join(folder, "pictures");
mkdirSync(pictures, { recursive: true });

const lab = await startLab(python, folder);
let failed = 0;

async function check(name, work) {
  const start = Date.now();
  try {
    await work();
    console.log(`ok     ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.message}`);
  }
}

// what one chart shows: the paths of its lines, the cells' labels and places, the line of text above it
async function drawn(page) {
  return page.evaluate(() => {
    const chart = document.querySelector(".qf-chart"), all = (query, get) => [...chart.querySelectorAll(query)].map(get);
    return {
      titles: all(".qf-title", (t) => t.textContent),
      paths: all(".qf-panel g path", (p) => p.getAttribute("d")).join("|"),
      cells: all(".qf-cell-text", (t) => t.textContent).join(" "),
      status: document.querySelector(".qf-status").textContent.trim(),
      readout: chart.querySelector(".qf-readout").textContent,
    };
  });
}

// do something, wait until that part differs, and give what it was and is; of all but the line of text the pixels must differ as well
async function changes(page, part, action) {
  const before = await drawn(page), pixels = await page.locator(".qf-focus").first().screenshot();
  await action();
  const deadline = Date.now() + 20_000;
  for (;;) {
    const after = await drawn(page);
    if (JSON.stringify(after[part]) !== JSON.stringify(before[part])) {
      if (part !== "status") assert.notDeepEqual(await page.locator(".qf-focus").first().screenshot(), pixels, "the picture's pixels stayed the same");
      return { before, after };
    }
    if (Date.now() > deadline) throw new Error(`${part} did not change`);
    await page.waitForTimeout(50);
  }
}

async function open(browser, name) {
  const { page, faults } = await runNotebook(browser.context, lab.url, `${name}.ipynb`);
  await page.locator(".qf-panel, .jp-RenderedText[data-mime-type*='stderr'], [data-mime-type*='vnd.jupyter.error']").first().waitFor({ timeout: 120_000 });
  assert.equal(await page.locator("[data-mime-type*='vnd.jupyter.error']").count(), 0, `a cell of ${name}.ipynb failed`);
  await page.locator(".qf-panel").first().waitFor();
  await page.locator(".qf-chart").first().scrollIntoViewIfNeeded();
  await page.waitForTimeout(500);
  return { page, faults, shot: (what) => page.screenshot({ path: join(pictures, `${name}_${what}.png`) }) };
}

const control = (page, name) => page.locator(".jupyter-widgets").getByLabel(name, { exact: true });
const number = (text, pattern) => Number(text.match(pattern)?.[1]);

try {
  const browser = await startBrowser();
  try {
    const one = await open(browser, "inspector"), { page } = one;
    await one.shot("1_opened");
    await check("the static picture makes room for the live one", async () => {
      assert.equal(await page.locator("[data-qf-static]").isVisible(), false);
    });
    await check("inspector: arrow down goes to the next neuron", async () => {
      await page.locator(".qf-focus").click({ position: { x: 300, y: 120 } });
      const { before, after } = await changes(page, "paths", () => page.keyboard.press("ArrowDown"));
      assert.equal(number(after.status, /neuron (\d+) of/), number(before.status, /neuron (\d+) of/) + 1);
      await one.shot("2_next_neuron");
    });
    await check("inspector: arrow right goes to the next trial", async () => {
      const { before, after } = await changes(page, "paths", () => page.keyboard.press("ArrowRight"));
      assert.equal(number(after.status, /trial (\d+) of/), number(before.status, /trial (\d+) of/) + 1);
      await one.shot("3_next_trial");
    });
    await check("inspector: a key held down does not queue up", async () => {
      const { after: first } = await changes(page, "status", () => page.keyboard.press("Home"));
      assert.equal(number(first.status, /trial (\d+) of/), 1);
      for (let i = 0; i < 12; i++) await page.keyboard.press("ArrowRight");
      await page.waitForFunction(() => / trial 13 of/.test(document.querySelector(".qf-status").textContent), null, { timeout: 20_000 });
    });
    await check("inspector: mouse and search choose neuron and trial", async () => {
      const trial = control(page, "trial");
      await trial.click();
      await changes(page, "paths", () => trial.selectOption({ index: 4 }));
      const { after } = await changes(page, "paths", () => control(page, "find neuron").fill("c0007"));
      assert.match(after.titles[0], /c0007, trial/);
      await changes(page, "status", () => control(page, "find neuron").fill(""));  // each waits for its own answer, not for that of the one before
      await changes(page, "status", () => control(page, "sort by").selectOption("activation probability"));
      await one.shot("4_sorted");
    });
    await check("inspector: nothing found is told in the widget", async () => {
      const { after } = await changes(page, "status", () => control(page, "find neuron").fill("no such neuron"));
      assert.match(after.status, /neuron: expected a name that holds/);
      await one.shot("5_nothing_found");
      await changes(page, "titles", () => control(page, "find neuron").fill(""));
    });
    await check("inspector: the pointer moves one line through all panels and reads off values", async () => {
      const box = await page.locator(".qf-panel").first().boundingBox();
      await changes(page, "readout", () => page.mouse.move(box.x + 0.8 * box.width, box.y + 0.5 * box.height));
      const lines = page.locator(".qf-cursor[visibility='visible']");
      assert.equal(await lines.count(), 3);
      const at = await lines.evaluateAll((all) => all.map((l) => Math.round(Number(l.getAttribute("x1")))));
      assert.equal(new Set(at).size, 1, `the panels' lines stand at ${at}`);
      assert.match((await drawn(page)).readout, /s: +measured .*QuantFormer/);
    });
    await check("inspector: every control is reached by Tab, in reading order", async () => {
      await control(page, "session").focus();
      const seen = [];
      for (let i = 0; i < 14; i++) {
        seen.push(await page.evaluate(() => {
          const it = document.activeElement;
          return it.classList.contains("qf-focus") ? "chart" : it.labels?.[0]?.textContent || it.textContent?.trim() || it.tagName;
        }));
        await page.keyboard.press("Tab");
      }
      const wanted = ["session", "stimulus", "condition", "find neuron", "sort by", "neuron", "trial", "forecasts", "chart", "save as", "Save figure and CSV"];
      assert.deepEqual(seen.filter((s) => wanted.includes(s)).slice(0, wanted.length), wanted, `found ${seen.join(", ")}`);
    });
    await check("inspector: saving writes files, and the static picture stays out of the way", async () => {
      await page.getByRole("button", { name: "Save figure and CSV" }).click();
      await page.getByText(/written: .*\.csv/).waitFor({ timeout: 20_000 });
      await page.waitForTimeout(1500);
      assert.equal(await page.locator("[data-qf-static]").first().isVisible(), false);
    });
    await check("inspector: no error in the page", async () => assert.deepEqual(one.faults, []));
    await page.close();

    const two = await open(browser, "codes");
    await two.shot("1_opened");
    await check("explorer: a clicked code is swapped into the burst and decoded", async () => {
      const start = await drawn(two.page), cells = two.page.locator(".qf-panel").nth(2).locator("g.qf-pick");
      const { after } = await changes(two.page, "paths", () => cells.last().click());
      assert.match(after.status, /edited at \d+\. The trace changed by/);
      assert.notEqual(after.cells, start.cells);
      await two.shot("2_code_swapped");
    });
    await check("explorer: keys go to another place and code", async () => {
      await changes(two.page, "status", () => two.page.keyboard.press("ArrowRight"));
      const { after } = await changes(two.page, "paths", () => two.page.keyboard.press("ArrowUp").then(() => two.page.keyboard.press("PageUp")));
      assert.match(after.status, /edited at \d+, \d+\./);
    });
    await check("explorer: two places are swapped, a sequence is typed, all is undone", async () => {
      await changes(two.page, "cells", () => two.page.getByRole("button", { name: "Swap their codes" }).click());
      await two.shot("3_places_swapped");
      const box = control(two.page, "sequence"), codes = (await box.inputValue()).split(" ");
      await changes(two.page, "paths", async () => { await box.fill(codes.map((_, i) => i % 3).join(" ")); await box.press("Enter"); });
      const { after } = await changes(two.page, "status", async () => { await box.fill("1 2"); await box.press("Enter"); });
      assert.match(after.status, /expected \d+ codes/);
      await two.shot("4_wrong_sequence");
      const { after: undone } = await changes(two.page, "status", () => two.page.getByRole("button", { name: "Undo all edits" }).click());
      assert.match(undone.status, /nothing edited yet/);
    });
    await check("explorer: no error in the page", async () => assert.deepEqual(two.faults, []));
    await two.page.close();

    const three = await open(browser, "rollout");
    await three.shot("1_opened");
    await check("rollout viewer: head, layer and neuron change the map", async () => {
      await changes(three.page, "cells", () => control(three.page, "head").selectOption("2"));
      await changes(three.page, "titles", () => three.page.locator(".qf-panel").nth(1).locator("g.qf-pick").first().click());
      await changes(three.page, "cells", () => three.page.keyboard.press("ArrowDown"));
      await changes(three.page, "cells", () => control(three.page, "average over").selectOption("this trial"));
      await three.shot("2_changed");
    });
    await check("rollout viewer: keys that it has no use for stay the page's", async () => {
      const kept = await three.page.locator(".qf-focus").first().evaluate((chart) => ["ArrowDown", "Enter", "Home", "Tab"].filter((key) => {
        const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
        chart.dispatchEvent(event);
        return !event.defaultPrevented;
      }));
      assert.deepEqual(kept, ["Enter", "Home", "Tab"]);
    });
    await check("rollout viewer: no error in the page", async () => assert.deepEqual(three.faults, []));
    await three.page.close();

    const four = await open(browser, "embedding");
    await four.shot("1_opened");
    await check("embedding browser: a clicked neuron shows its trials", async () => {
      const point = four.page.locator("circle.qf-pick").first(), key = await point.getAttribute("data-key");
      const { after } = await changes(four.page, "titles", () => point.click({ force: true }));
      assert.ok(after.titles[1].startsWith(`${key}:`), after.titles[1]);
      await four.shot("2_clicked");
    });
    await check("embedding browser: arrows go to the nearest point, colours follow a statistic", async () => {
      let moved = 0;
      for (const key of ["ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"]) {  // at the edge there is none in some directions
        const before = (await drawn(four.page)).titles[1];
        await four.page.keyboard.press(key);
        await four.page.waitForTimeout(800);
        moved += (await drawn(four.page)).titles[1] !== before;
      }
      assert.ok(moved >= 2, `${moved} of four arrows changed the neuron`);
      await changes(four.page, "titles", () => control(four.page, "colour by").selectOption("preferred condition"));
      const { after } = await changes(four.page, "status", async () => { const box = control(four.page, "perplexity"); await box.fill("500"); await box.press("Enter"); });
      assert.match(after.status, /perplexity: expected/);
      await four.shot("3_perplexity");
    });
    await check("embedding browser: no error in the page", async () => assert.deepEqual(four.faults, []));
    await four.page.close();
  } finally {
    await browser.stop();
  }

  // at 150 % a page of 1280 pixels is as wide as one of 853
  const zoomed = await startBrowser({ viewport: { width: 853, height: 667 }, deviceScaleFactor: 1.5 });
  try {
    for (const name of ["inspector", "embedding"]) {
      const { page, shot } = await open(zoomed, name);
      await check(`${name}: readable at 150 %, nothing wider than the page`, async () => {
        const wide = await page.evaluate(() => {
          const chart = document.querySelector(".qf-chart").getBoundingClientRect();
          return [...document.querySelectorAll(".qf-panel")].filter((p) => p.getBoundingClientRect().right > chart.right + 2).length;
        });
        assert.equal(wide, 0);
        const small = await page.evaluate(() => [...document.querySelectorAll(".qf-chart text, .qf-readout, .qf-legend")].filter((t) => parseFloat(getComputedStyle(t).fontSize) < 11).length);
        assert.equal(small, 0, "text below 11 px");
        await shot("150_percent");
      });
      await page.close();
    }
  } finally {
    await zoomed.stop();
  }
} finally {
  await lab.stop();
}
console.log(failed ? `${failed} failed; pictures in ${pictures}` : `all well; pictures in ${pictures}`);
process.exit(failed ? 1 : 0);
