// Hooks: one answer, or a conversation.
//
// What must hold: what is left is closed, and a component that is mounted twice, as in strict
// mode, follows once.

import {useEffect, useMemo, useRef, useState, useSyncExternalStore} from "react";

import {follow, initial} from "./index.js";
import {Conversation} from "./store.js";

export {Conversation};

// The state of the run at `eventsUrl`, as `follow` has it; nothing is followed without one.
export function useAnswer(eventsUrl, {renew} = {}) {
  const [state, setState] = useState(initial);
  const latest = useRef(renew);
  latest.current = renew;
  useEffect(() => {
    setState(initial);
    if (!eventsUrl) return undefined;
    const own = latest.current && (() => latest.current());
    const handle = follow(eventsUrl, setState, {renew: own});
    return handle.close;
  }, [eventsUrl]);
  return state;
}

// {messages, status, error, answer, cache, connected, dropped, send, stop, drop, resume, retry,
// regenerate, approve, respond}
export function useConversation(options) {
  const {url, agent, conversation, user} = options;
  const store = useMemo(
    () => new Conversation(options),
    // Another one is another conversation; the rest may change with each rendering.
    [String(url), agent, conversation, user],
  );
  store.options = options;
  const value = useSyncExternalStore(store.subscribe, store.get, store.get);
  const {send, stop, drop, resume, retry, regenerate, approve, respond} = store;
  return {...value, send, stop, drop, resume, retry, regenerate, approve, respond};
}
