// A session of one minute: the warning stands there, staying is one key, and leaving the place ends the session.
import assert from "node:assert/strict";
import { code, isAccessible, launch, open, origin } from "./common.mjs";

const password = "quiet lamp over nine rivers";
const browser = await launch();
const { context } = await open(browser);
const page = await context.newPage();
await page.goto(process.env.WARD_LINK);
const key = await page.textContent("#totp-secret");
await page.fill("#password", password);
await page.fill("#password_again", password);
await page.fill("#code", code(key));
await page.click("text=Finish");
await page.fill("#username", "admin");
await page.fill("#password", password);
await page.click("text=Continue");
await page.fill("#code", code(key, 1));
await page.click("button:has-text('Sign in')");
await page.waitForURL(`${origin}/`);

await page.waitForSelector("#idle-warning[open]");
const before = Number(await page.textContent("#idle-seconds"));
assert.ok(before > 30 && before <= 60, `${before} seconds left`);
assert.equal(await page.evaluate(() => document.activeElement.id), "stay-signed-in");
const cookies = await context.cookies();
// Nobody touches it, and it leaves by itself; the server would not answer any more either.
await page.waitForURL(`${origin}/session/expired`, { timeout: 90_000 });
await context.addCookies(cookies);
await page.goto(`${origin}/`);
assert.match(page.url(), /\/(session\/expired|sign-in)$/);
await isAccessible(browser, [], "/session/expired");
await browser.close();
console.log("ok");
