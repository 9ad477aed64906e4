"use strict";
// What both pages share: questions to the server, with the token where it asks for one, and how the server is.

const $ = id => document.getElementById(id);

/** An element with attributes (`class`, `text`, handlers as functions) and children. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (typeof value === "function") element.addEventListener(key, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

/** Why a question has no answer. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let asking = null;

/** Asks for a token, once however many questions want one. */
function askToken(why) {
  asking ??= new Promise(resolve => {
    const dialog = $("ask-token");
    $("ask-why").textContent = why;
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value);
      asking = null;
      resolve();
    }, {once: true});
    dialog.showModal();
  });
  return asking;
}

/** The answer to a question, whatever it is. Waits, and asks again, where the server is away. */
async function ask(path, options = {}) {
  for (;;) {
    const headers = {...options.headers};
    const token = sessionStorage.getItem("token");
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(path, {...options, headers});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      say("away", "The server is away. This page goes on when it is back.");
      await new Promise(resolve => setTimeout(resolve, 1000));
      continue;
    }
    if (response.status === 401) {
      await askToken((await response.text()).trim());
      continue;
    }
    if (!response.ok) {
      const found = await response.json().catch(() => ({}));
      if (response.status === 503 && response.headers.has("Retry-After")) {
        await new Promise(resolve => setTimeout(resolve, 1000));
        continue;
      }
      throw new Refused(response.status, found.error ?? `the server answered ${response.status}`);
    }
    return response;
  }
}

const askJson = async (path, options) => (await ask(path, options)).json();

/** Says how the server is, where it is not as it should be. */
function say(state, text) {
  const element = $("state");
  if (element.textContent === text) return;
  element.dataset.state = state;
  element.textContent = text;
}

/** Looks after the server, for as long as the page is open. */
async function watchHealth() {
  let away = false;
  for (;;) {
    try {
      const response = await fetch("/healthz");
      const {status} = await response.json();
      if (status === "draining") say("draining", "The server is leaving: it answers what it has, and takes nothing new.");
      else say("serving", "serving");
      if (away) dispatchEvent(new Event("back"));
      away = false;
    } catch {
      say("away", "The server is away. This page goes on when it is back.");
      away = true;
    }
    await new Promise(resolve => setTimeout(resolve, document.hidden ? 10000 : 2000));
  }
}

/** A share as people read it: 12.3%, 0.04%. */
function percent(share) {
  if (share === 0) return "0%";
  const x = 100 * share;
  if (x >= 99.995) return "100%";
  return x >= 9.995 ? `${x.toFixed(1)}%` : x >= 0.0095 ? `${x.toFixed(2)}%` : `${x.toExponential(0)}%`;
}

const grouped = number => number.toLocaleString("en-US");

watchHealth();
