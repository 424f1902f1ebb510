// Requests of the playground and their streams, without the page: what is sent, and what comes back.

import { formToken } from "./console.js";

/** Fields that scale has in `model_parameters`, and two names of its own. */
const SCALE_NAMES = { top_p: "topP", top_k: "topK" };

/** Return the messages that column `column` of the conversation has had so far. */
export function messagesOf(turns, column, system) {
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    messages.push(...turn.sent);
    const answer = turn.answers[column];
    if (answer?.isDone && !answer.error) {
      const calls = answer.calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
      messages.push(calls.length ? { role: "assistant", content: answer.text, tool_calls: calls } : { role: "assistant", content: answer.text });
    }
  }
  return messages;
}

/** Return the path and body of a request in a dialect. */
export function buildRequest(config, settings, model, messages) {
  const path = config.paths[settings.dialect].replace("{model}", encodeURIComponent(model));
  const { sampling } = settings;
  if (settings.dialect === "scale") {
    const parameters = Object.fromEntries(Object.entries(sampling).map(([name, value]) => [SCALE_NAMES[name] ?? name, value]));
    return { path, body: { model, messages, stream: true, model_parameters: parameters, ...settings.more } };
  }
  const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...sampling };
  if (settings.tools) body.tools = settings.tools;
  if (settings.schema) {
    body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: settings.schema } };
  }
  if (settings.logprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return { path, body: { ...body, ...settings.more } };
}

/** An answer that grows as its stream arrives. */
export class Answer {
  constructor(model) {
    Object.assign(this, { model, text: "", thoughts: "", calls: [], logprobs: [], usage: null, finish: null });
    Object.assign(this, { error: null, requestId: null, charge: null, isDone: false });
    this.startedAt = performance.now();
    this.firstAt = null;
    this.endedAt = null;
  }

  /** Send the request and read its stream; `onChange` is called after every event. Never throws. */
  async run(config, request, signal, onChange) {
    try {
      const response = await fetch(config.api + request.path, {
        method: "POST",
        signal,
        headers: { "content-type": "application/json", "x-form-token": formToken() },
        body: JSON.stringify(request.body),
      });
      this.requestId = response.headers.get("x-request-id");
      if (!response.ok) {
        this.error = errorText(await response.text(), response.status);
      } else {
        for await (const data of events(response.body)) {
          if (data !== "[DONE]") this.accept(JSON.parse(data));
          onChange();
        }
      }
    } catch (error) {
      if (error.name === "AbortError") this.finish = "stopped";
      else this.error = `The connection broke: ${error.message}`;
    }
    this.endedAt = performance.now();
    this.isDone = true;
    onChange();
  }

  accept(chunk) {
    if (chunk.error || chunk.detail) {
      this.error = errorText(JSON.stringify(chunk), 0);
      return;
    }
    if (chunk.usage) this.usage = { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens, cached: chunk.usage.prompt_tokens_details?.cached_tokens ?? 0, thoughts: chunk.usage.completion_tokens_details?.reasoning_tokens ?? 0 };
    if (chunk.token_usage) this.usage = { prompt: chunk.token_usage.prompt, completion: chunk.token_usage.completion, cached: 0, thoughts: 0 };
    const choice = chunk.choices?.[0];
    const delta = choice?.delta ?? chunk.chat_completion?.message;
    this.finish = choice?.finish_reason ?? chunk.chat_completion?.finish_reason ?? this.finish;
    if (!delta) return;
    const thoughts = delta.reasoning_content ?? delta.reasoning ?? "";
    if (this.firstAt === null && (delta.content || thoughts || delta.tool_calls)) this.firstAt = performance.now();
    this.text += delta.content ?? "";
    this.thoughts += thoughts;
    for (const part of delta.tool_calls ?? []) {
      const call = (this.calls[part.index ?? 0] ??= { id: "", name: "", arguments: "" });
      call.id = part.id ?? call.id;
      call.name += part.function?.name ?? "";
      call.arguments += part.function?.arguments ?? "";
    }
    for (const item of choice?.logprobs?.content ?? []) this.logprobs.push(item);
  }

  /** Return the figures of the answer: milliseconds to the first token, and tokens a second after it. */
  get figures() {
    const firstMs = this.firstAt === null ? null : this.firstAt - this.startedAt;
    const rest = (this.endedAt ?? performance.now()) - (this.firstAt ?? 0);
    const tokens = this.usage?.completion ?? null;
    return { firstMs, speed: tokens > 1 && rest > 0 ? ((tokens - 1) * 1000) / rest : null };
  }
}

/** Yield the data of each server-sent event of a stream. */
async function* events(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const frames = rest.split(/\r?\n\r?\n/);
    rest = frames.pop();
    for (const frame of frames) {
      const lines = frame.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

function errorText(text, status) {
  try {
    const body = JSON.parse(text);
    const found = body.error?.message ?? body.error ?? body.detail?.message ?? body.detail ?? body.message;
    return typeof found === "string" ? found : JSON.stringify(found ?? body);
  } catch {
    return text || `The server answered with status ${status}`;
  }
}

/** Return the request as a program that people can paste. */
export function asCode(language, config, { path, body }) {
  const url = location.origin + config.public + path;
  const json = JSON.stringify(body, null, 2);
  if (language === "json") return json;
  if (language === "curl") {
    const key = config.needs_key ? "  -H \"Authorization: Bearer $DRAGOMAN_API_KEY\" \\\n" : "";
    return `curl ${url} \\\n${key}  -H 'Content-Type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
  }
  const key = config.needs_key ? '\n    headers={"Authorization": f"Bearer {os.environ[\'DRAGOMAN_API_KEY\']}"},' : "";
  return `import json${config.needs_key ? "\nimport os" : ""}

import httpx

body = json.loads(r'''
${json.replaceAll("'''", "\\u0027\\u0027\\u0027")}
''')
with httpx.stream(
    "POST",
    ${JSON.stringify(url)},
    json=body,${key}
    timeout=None,
) as response:
    for line in response.iter_lines():
        print(line)`;
}
