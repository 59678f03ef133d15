// The audio worklet: it passes on the microphone's blocks of samples.
class Capture extends AudioWorkletProcessor {
  process([input]) {
    if (input?.[0]?.length) this.port.postMessage(input[0].slice());
    return true;
  }
}
registerProcessor("capture", Capture);
