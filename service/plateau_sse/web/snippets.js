// What is asked on the page, as code that does the same, and works as it is pasted.

const SHOWN_CHARS = 60;
const $ = (id) => document.getElementById(id);

// In the shell a text within '…' ends with each ' of its own.
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

// `body` as POST /v1/runs takes it; `base` is where the service is.
export function showSnippets(base, body, hasKey) {
  // Half a character is none.
  const input = [...body.input].slice(0, SHOWN_CHARS).join("").trim() || "Your text";
  const asked = {...body, input};
  const json = JSON.stringify(asked);
  const shellKey = hasKey ? `  -H "Authorization: Bearer $PLATEAU_KEY" \\\n` : "";
  $("curl").textContent = `curl -N ${quoted(`${base}v1/runs`)} \\
  -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
${shellKey}  -d ${quoted(json)}`;

  const key = hasKey ? "\n  headers: {Authorization: `Bearer ${PLATEAU_KEY}`}," : "";
  $("snippet").textContent = `const asked = await fetch(${JSON.stringify(`${base}v1/runs`)}, {
  method: "POST",${key}
  body: JSON.stringify(${json}),
});
const {events_url} = await asked.json();
const source = new EventSource(new URL(events_url, asked.url));
source.onmessage = ({data, lastEventId}) => {
  const {type, text = ""} = JSON.parse(data);
  console.log(lastEventId, type, text);
  if (/^run\\.(completed|failed|cancelled)$/.test(type)) source.close();
};`;

  const own = hasKey ? ", {key: PLATEAU_KEY}" : "";
  $("module").textContent = `const {ask, follow} = await import(${JSON.stringify(`${base}client.js`)});
const asked = await ask(${JSON.stringify(base)}, ${json}${own});
follow(asked.events_url, ({status, text}) => console.log(status, text));`;
  $("code-key").hidden = !hasKey;
}

export function copySnippets() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const code = $(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        // No clipboard without https: select it, so that one key does it.
        getSelection().selectAllChildren(code);
      }
    });
    button.addEventListener("blur", () => (button.textContent = "Copy"));
  }
}
