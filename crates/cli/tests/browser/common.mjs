// What the stories share: a browser that trusts this stack's authority and nothing else, one-time codes, and the
// checks that hold on every page.
import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { connect } from "node:tls";

const require = createRequire(`${process.env.WARD_MODULES}/`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

export const origin = process.env.WARD_ORIGIN;
/** Texts that must stand in no address and no title. */
export const secrets = JSON.parse(process.env.WARD_SECRETS ?? "[]");

/** The pin of the listener's key, after its certificate was checked against the stack's authority. */
function listenerPin() {
  const { hostname, port } = new URL(origin);
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, servername: hostname, port, ca: readFileSync(process.env.WARD_TRUST) }, () => {
      const key = socket.getPeerX509Certificate().publicKey.export({ type: "spki", format: "der" });
      socket.destroy();
      resolve(createHash("sha256").update(key).digest("base64"));
    });
    socket.on("error", reject);
  });
}

export async function launch() {
  const pin = await listenerPin();
  return chromium.launch({
    executablePath: process.env.WARD_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", `--ignore-certificate-errors-spki-list=${pin}`,
    ],
  });
}

/** A context in which every request and every title is looked at. */
export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const addresses = [];
  context.on("request", (request) => {
    addresses.push(request.url());
    assert.ok(request.url().startsWith(`${origin}/`), `a request left for ${new URL(request.url()).host}`);
  });
  context.on("page", (page) => {
    page.on("console", (message) => {
      // A form that is to be corrected comes with a status that the browser reports.
      if (message.text().startsWith("Failed to load resource")) return;
      assert.notEqual(message.type(), "error", message.text());
    });
    page.on("pageerror", (error) => assert.fail(error));
  });
  return { context, addresses };
}

/** Nothing that tells of a person stands in what browsers keep. */
export async function tellsNothing(page, addresses) {
  const kept = [...addresses, await page.title()].map((text) => decodeURIComponent(text).toLowerCase());
  for (const secret of secrets) {
    assert.ok(!kept.some((text) => text.includes(secret.toLowerCase())), "an address or a title tells of a patient");
  }
}

/** The code of RFC 6238 for a Base32 key, `steps` from now. */
export function code(key, steps = 0) {
  let bits = "";
  for (const letter of key.replaceAll(" ", "")) {
    bits += "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0");
  }
  const bytes = Buffer.from(bits.match(/.{8}/g).map((byte) => Number.parseInt(byte, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + steps));
  const tag = createHmac("sha1", bytes).update(step).digest();
  const offset = tag.at(-1) & 15;
  return String((tag.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

/** axe-core finds nothing at WCAG 2.2 AA, in light and in dark, at 100% and at 200%. */
export async function isAccessible(browser, cookies, path) {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 640]) {
      const { context } = await open(browser, { bypassCSP: true, colorScheme, viewport: { width, height: 800 } });
      await context.addCookies(cookies);
      const page = await context.newPage();
      await page.goto(origin + path);
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(tooWide <= 0, `${path} is ${tooWide} pixels too wide at ${width}`);
      await page.evaluate(axe);
      const found = await page.evaluate(() =>
        globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
      const told = found.violations.map((one) => `${one.id}: ${one.help} (${one.nodes.map((node) => node.target).join(", ")})`);
      assert.deepEqual(told, [], `${path}, ${colorScheme}, ${width}`);
      await context.close();
    }
  }
}

/** Takes a picture, if a directory for it is named. */
export async function picture(page, name) {
  if (process.env.WARD_PICTURES) {
    await page.screenshot({ path: `${process.env.WARD_PICTURES}/${name}.png`, fullPage: true });
  }
}
