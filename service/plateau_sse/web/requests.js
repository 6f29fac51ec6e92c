// What an agent asks of a person, answered in place: approved or declined, or in words.
//
// What must hold: a request is answered once; what an agent has written becomes text.

import {element} from "./markdown.js";

function button(words, act, className = "") {
  const node = element("button", words, className);
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

// The words of a request's schema, where it names some to choose from.
function choicesOf({schema}) {
  const given = schema?.enum;
  const isOne = Array.isArray(given) && given.length > 0 && given.length <= 12;
  return isOne && given.every((one) => typeof one === "string") ? given : [];
}

function formOf(request, respond) {
  const node = element("form", "", "request");
  node.append(element("p", String(request.message ?? "")));
  const actions = element("div", "", "actions");
  const answer = (payload) => () => respond(request, payload);
  if (request.kind === "approval") {
    actions.append(button("Approve", answer({approved: true}), "primary"));
    actions.append(button("Decline", answer({approved: false})));
  } else if (choicesOf(request).length) {
    actions.append(...choicesOf(request).map((one) => button(one, answer(one))));
  } else {
    const label = element("label", "Your answer");
    const input = label.appendChild(element("input"));
    input.type = "text";
    const send = element("button", "Send", "primary");
    node.append(label);
    actions.append(send);
    node.addEventListener("submit", () => input.value.trim() && respond(request, input.value.trim()));
  }
  node.addEventListener("submit", (event) => event.preventDefault());
  node.append(actions);
  return node;
}

// `respond(request, payload)`.
export function requestForms(box, respond) {
  let shown = "";
  return {
    show(parts, isOpen) {
      const open = isOpen ? parts.filter(({type}) => type === "input.request") : [];
      const ids = JSON.stringify(open.map(({id}) => id));
      if (shown === ids) return;
      shown = ids;
      box.hidden = open.length === 0;
      box.replaceChildren(...open.map((one) => formOf(one, respond)));
    },
  };
}
