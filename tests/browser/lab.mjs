// JupyterLab in a headless Chromium: start both, open a notebook, run it, look at pictures.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

async function freePort() {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

// JupyterLab on `folder`; its settings live in a folder of their own, so that those of the user neither help nor suffer
export async function startLab(python, folder) {
  const port = await freePort(), own = mkdtempSync(join(tmpdir(), "qf-lab-"));
  const settings = join(own, "settings", "@jupyterlab", "apputils-extension");
  mkdirSync(settings, { recursive: true });
  writeFileSync(join(settings, "notification.jupyterlab-settings"), JSON.stringify({ fetchNews: "false", checkForUpdates: false }));
  const env = { ...process.env, JUPYTER_CONFIG_DIR: join(own, "config"), JUPYTER_DATA_DIR: join(own, "data"), JUPYTERLAB_SETTINGS_DIR: join(own, "settings"), JUPYTERLAB_WORKSPACES_DIR: join(own, "workspaces"), IPYTHONDIR: join(own, "ipython") };
  const lab = spawn(python, ["-m", "jupyterlab", "--no-browser", "--allow-root", `--ServerApp.port=${port}`, "--ServerApp.port_retries=0", "--IdentityProvider.token=test", `--ServerApp.root_dir=${folder}`, "--LabApp.news_url=None"], { env, stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  lab.stdout.on("data", (d) => { log += d; });
  lab.stderr.on("data", (d) => { log += d; });
  const url = `http://127.0.0.1:${port}`;
  for (let i = 0; ; i++) {
    if (lab.exitCode !== null || i > 240) throw new Error(`JupyterLab did not start:\n${log.slice(-3000)}`);
    try { if ((await fetch(`${url}/api?token=test`)).ok) break; } catch { /* not yet */ }
    await new Promise((done) => setTimeout(done, 250));
  }
  const stop = async () => {
    if (lab.exitCode === null) { lab.kill("SIGINT"); lab.kill("SIGTERM"); await Promise.race([once(lab, "exit"), new Promise((done) => setTimeout(done, 5000))]); }
    if (lab.exitCode === null) lab.kill("SIGKILL");
    rmSync(own, { recursive: true, force: true });
  };
  return { url, stop, log: () => log };
}

export async function startBrowser(options = {}) {
  const profile = mkdtempSync(join(tmpdir(), "qf-chromium-"));
  const context = await chromium.launchPersistentContext(profile, { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS, viewport: { width: 1280, height: 1000 }, ...options });
  return { context, stop: async () => { await context.close(); rmSync(profile, { recursive: true, force: true }); } };
}

// open a notebook in simple mode and run all its cells
export async function runNotebook(context, url, name) {
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(String(error)));
  await page.goto(`${url}/doc/tree/${name}?token=test&reset`, { waitUntil: "domcontentloaded" });
  await page.locator(".jp-Notebook").first().waitFor({ timeout: 90_000 });
  // cells that are run before the status bar says Idle are lost on a cold start
  await page.locator("#jp-main-statusbar").getByText("Idle").waitFor({ timeout: 120_000 });
  const started = page.locator(".jp-InputPrompt").filter({ hasText: /\[(\*|\d+)\]/ }).first();
  for (let attempt = 0; attempt < 5; attempt++) {
    await page.waitForTimeout(500);
    await page.getByRole("menuitem", { name: "Run", exact: true }).click();
    await page.getByText("Run All Cells", { exact: true }).click();
    if (await started.waitFor({ timeout: 5000 }).then(() => true, () => false)) break;
  }
  return { page, faults };
}
