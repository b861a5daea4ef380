// Draws events from a peak, fits it, and prints what the fit finds. All three settings are
// variables of the task.
#include <cstdlib>
#include <iostream>

#include <TF1.h>
#include <TH1D.h>
#include <TRandom3.h>
#include <TSystem.h>

double setting(const char *name) {
  const char *value = gSystem->Getenv(name);
  if (value == nullptr) {
    std::cerr << name << " is not set\n";
    std::exit(1);
  }
  return std::atof(value);
}

void peak() {
  const int events = static_cast<int>(setting("PEAK_EVENTS"));
  const double mass = setting("PEAK_MASS");
  const double width = setting("PEAK_WIDTH");

  TH1D spectrum("spectrum", ";m [GeV];Events", 60, mass - 6 * width, mass + 6 * width);
  TRandom3 random(1);
  for (int event = 0; event < events; ++event) {
    spectrum.Fill(random.Gaus(mass, width));
  }
  spectrum.Fit("gaus", "Q0");
  const TF1 *fit = spectrum.GetFunction("gaus");
  std::cout << "peak at " << fit->GetParameter(1) << " +- " << fit->GetParError(1) << " GeV\n";
}
