import { useEffect, useState } from "preact/hooks";

import { keepSecret, secret } from "./database.js";
import { keyChanged } from "./delivery.js";
import { label, type ModelInfo } from "./models.js";
import { knows, LONG_SECONDS } from "./policy.js";
import { type Problem, problemOf, said } from "./problem.js";
import * as server from "./server.js";
import { change, OTHER, POLICIES, type Policy, type Settings } from "./settings.js";
import { type Key, type Language, LANGUAGES, OWN_NAMES, useSpeaker } from "./strings.js";

const TITLES: Record<Policy, [title: Key, about: Key]> = {
  device: ["policyDevice", "policyDeviceAbout"],
  "device-first": ["policyDeviceFirst", "policyDeviceFirstAbout"],
  "server-first": ["policyServerFirst", "policyServerFirstAbout"],
};

interface Props {
  settings: Settings;
  models: ModelInfo[];
  /** The name of the model that is loaded. */
  selected: string;
  isBusy: boolean;
}

/** What the user chooses: where speech becomes text, the languages, the model. */
export function SettingsView({ settings, models, selected, isBusy }: Props) {
  const speaker = useSpeaker();
  const { say } = speaker;
  const model = models.find(({ name }) => name === selected);
  return (
    <section aria-labelledby="settings-title">
      <h2 id="settings-title">{say("settings")}</h2>
      <fieldset>
        <legend>{say("policy")}</legend>
        {POLICIES.map((policy) => (
          <div class="choice" key={policy}>
            <input
              type="radio"
              name="policy"
              id={policy}
              aria-describedby={`${policy}-about`}
              checked={settings.policy === policy}
              disabled={isBusy}
              onChange={() => change({ policy })}
            />
            <label for={policy}>{say(TITLES[policy][0])}</label>
            <p id={`${policy}-about`}>{say(TITLES[policy][1], { seconds: String(LONG_SECONDS) })}</p>
          </div>
        ))}
      </fieldset>
      {settings.policy !== "device" && <ApiKey />}
      <label for="spoken">{say("spokenLanguage")}</label>
      <select
        id="spoken"
        value={settings.spoken}
        disabled={isBusy}
        onChange={(event) => change({ spoken: event.currentTarget.value })}
      >
        {LANGUAGES.map((code) => (
          <option key={code} value={code}>
            {speaker.languageName(code)}
          </option>
        ))}
        <option value={OTHER}>{say("otherLanguage")}</option>
      </select>
      {model && !knows(model, settings.spoken) && (
        <p class="note">
          {say("modelKnowsOnly", { language: model.languages.map((x) => speaker.languageName(x)).join(", ") })}
        </p>
      )}
      <label for="model">{say("model")}</label>
      <select
        id="model"
        value={selected}
        disabled={isBusy}
        onChange={(event) => change({ model: event.currentTarget.value })}
      >
        {models.map((each) => (
          <option key={each.name} value={each.name}>
            {label(speaker, each)}
          </option>
        ))}
      </select>
      <label for="interface">{say("interfaceLanguage")}</label>
      <select
        id="interface"
        value={settings.interface}
        onChange={(event) => change({ interface: event.currentTarget.value as Language })}
      >
        {LANGUAGES.map((code) => (
          <option key={code} value={code} lang={code}>
            {OWN_NAMES[code]}
          </option>
        ))}
      </select>
    </section>
  );
}

/** The key that the server asks for. */
function ApiKey() {
  const { say } = useSpeaker();
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isAccepted, setAccepted] = useState(false);
  useEffect(() => {
    secret(server.KEY).then(setKey, (cause) => setProblem(problemOf(cause)));
  }, []);

  async function save(key: string) {
    setKey(key);
    setProblem(null);
    setAccepted(false);
    try {
      await keepSecret(server.KEY, key);
      await server.check();
      setAccepted(true);
      await keyChanged();
    } catch (cause) {
      setProblem(problemOf(cause));
    }
  }

  return (
    <>
      <label for="api-key">{say("apiKey")}</label>
      <input
        id="api-key"
        type="password"
        autocomplete="off"
        aria-describedby="api-key-about"
        value={key}
        onChange={(event) => void save(event.currentTarget.value.trim())}
      />
      <p id="api-key-about">{say("apiKeyAbout", { server: server.name })}</p>
      <p role="status" class={problem ? "error" : ""}>
        {problem ? said(say, problem) : isAccepted ? say("keyAccepted") : ""}
      </p>
    </>
  );
}
