// A session of one minute: the warning stands there, staying is one key, leaving the place ends the session, and so
// does signing out in another tab.
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
async function signIn(steps) {
  await page.fill("#username", "admin");
  await page.fill("#password", password);
  await page.click("text=Continue");
  await page.fill("#code", code(key, steps));
  await page.click("button:has-text('Sign in')");
  await page.waitForURL(`${origin}/`);
}
await signIn(1);

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

// What is open in one tab leaves the screen when another signs out, before its own time is over.
await page.goto(`${origin}/sign-in`);
await signIn(0);
const other = await context.newPage();
await other.goto(`${origin}/`);
await other.click("#idle-warning button:has-text('Sign out now')");
await other.waitForURL(`${origin}/signed-out`);
await page.waitForURL(`${origin}/session/expired`, { timeout: 40_000 });
await browser.close();
console.log("ok");
