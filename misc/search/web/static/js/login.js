// The form for the password of a server that other machines can reach.

import * as api from "./api.js";
import { $ } from "./dom.js";

let waiting = null; // one form, however many requests wait for it

function ask() {
  const form = $("login").querySelector("form");
  $("login").oncancel = (event) => event.preventDefault();
  $("login").showModal();
  return new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        await api.login($("password").value);
      } catch (error) {
        $("login-error").textContent = error.message;
        $("password").select();
        return;
      }
      form.reset();
      $("login-error").textContent = "";
      $("login").close();
      resolve();
    };
  });
}

export function connectLogin() {
  api.whenLoginIsNeeded(() => {
    waiting ??= ask().finally(() => {
      waiting = null;
    });
    return waiting;
  });
  $("logout").onclick = async () => {
    await api.logout();
    location.assign("./");
  };
}
